import itertools

import pytest

from echo.engine_metrics import EngineFigures
from echo.errors import FAILURES, BadRequest, DeviceStopped, EngineFailed, OutOfMemory, Preempted, failure_reason
from echo.telemetry import Metrics
from echo.types import DeviceMemory, Workload


def test_the_gauges_show_what_the_engines_have_to_do_when_they_are_read() -> None:
    metrics = Metrics()
    figures: list[EngineFigures] = []
    metrics.watch(lambda: figures)
    assert "echo_active_utterances{" not in metrics.render().decode()  # no engine yet
    load = Workload(active=2, waiting=5, nbytes=1000, max_nbytes=4000, queue_wait_s=1.5, steps=7, out_of_memory=4)
    memory = DeviceMemory(allocated=10, reserved=20, free=70, total=100)
    figures.append(EngineFigures(model="echo-tts", open_streams=3, workload=load, memory=memory))
    figures.append(
        EngineFigures(model="kokoro", open_streams=0, workload=Workload(process_bytes=8, restarts=3), available=False)
    )
    lines = metrics.render().decode().splitlines()
    for line in (
        'echo_open_streams{model_name="echo-tts"} 3.0',
        'echo_active_utterances{model_name="echo-tts"} 2.0',
        'num_requests_running{model_name="echo-tts"} 2.0',
        'echo_waiting_utterances{model_name="echo-tts"} 5.0',
        'num_requests_waiting{model_name="echo-tts"} 5.0',
        'echo_queue_wait_seconds{model_name="echo-tts"} 1.5',
        'echo_kv_bytes{model_name="echo-tts"} 1000.0',
        'echo_kv_budget_bytes{model_name="echo-tts"} 4000.0',
        'echo_steps_total{model_name="echo-tts"} 7.0',
        'echo_out_of_memory_total{model_name="echo-tts"} 4.0',
        'echo_device_memory_allocated_bytes{model_name="echo-tts"} 10.0',
        'echo_device_memory_reserved_bytes{model_name="echo-tts"} 20.0',
        'echo_device_memory_free_bytes{model_name="echo-tts"} 70.0',
        'echo_device_memory_total_bytes{model_name="echo-tts"} 100.0',
        'echo_waiting_utterances{model_name="kokoro"} 0.0',
        'echo_engine_available{model_name="echo-tts"} 1.0',
        'echo_engine_available{model_name="kokoro"} 0.0',
        'echo_engine_process_bytes{model_name="kokoro"} 8.0',
        'echo_engine_restarts_total{model_name="kokoro"} 3.0',
    ):
        assert line in lines
    assert 'echo_engine_process_bytes{model_name="echo-tts"}' not in "\n".join(lines)  # it is in the server's own
    assert 'echo_device_memory_free_bytes{model_name="kokoro"}' not in "\n".join(lines)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (EngineFailed("x"), "generation_failed"),
        (DeviceStopped(), "device_stopped"),
        (OutOfMemory(), "out_of_memory"),
        (BadRequest("x", code="a_code_of_one_place"), "invalid_value"),
        (ValueError("x"), "internal_error"),
    ],
)
def test_every_failure_has_one_of_a_few_reasons(error: Exception, reason: str) -> None:
    assert failure_reason(error) == reason
    assert reason in FAILURES


def test_work_that_had_to_make_room_has_not_failed() -> None:
    assert failure_reason(Preempted("Others need the device.")) is None


def test_no_name_is_exported_twice() -> None:
    metrics = Metrics()
    metrics.of("echo-tts")
    names = [line.split()[2] for line in metrics.render().decode().splitlines() if line.startswith("# TYPE")]
    assert not [name for name, same in itertools.groupby(sorted(names)) if len(list(same)) > 1]
