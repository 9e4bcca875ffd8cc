from echo.telemetry import Metrics
from echo.types import Workload


def test_the_gauges_show_what_the_engine_has_to_do_when_they_are_read() -> None:
    metrics = Metrics()
    load = Workload()
    metrics.watch(lambda: load, lambda: 3)
    load = Workload(active=2, waiting=5, nbytes=1000, max_nbytes=4000, queue_wait_s=1.5)
    page = metrics.render().decode()
    for line in (
        "echo_open_streams 3.0",
        "echo_active_utterances 2.0",
        "echo_waiting_utterances 5.0",
        "echo_queue_wait_seconds 1.5",
        "echo_kv_bytes 1000.0",
        "echo_kv_budget_bytes 4000.0",
    ):
        assert line in page.splitlines()
