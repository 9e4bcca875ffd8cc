"""A device that hangs or dies, in a real server process: it is told, nobody waits for it, and the process ends."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile

from server.stop import DEVICE_STOPPED
from tests.e2e.server_process import QUICK, ServerProcess
from tests.processes import eventually

STOPPED = "The device has stopped; the server has to be started again."


class FaultyServer(ServerProcess):
    """``faulty_server.py`` in place of ``api_server.py``."""

    program = Path(__file__).with_name("faulty_server.py")


Start = Callable[..., FaultyServer]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a faulty server; its watchdog bites after a second unless a setting says otherwise."""
    voices = tmp_path / "voices"
    voices.mkdir()
    for name, seconds in (("anna", 1), ("brief", 0.4), ("long", 3)):
        soundfile.write(voices / f"{name}.wav", 0.1 * np.ones(int(seconds * 44_100)), 44_100)
    with ExitStack() as stack:

        def run(**settings: object) -> FaultyServer:
            values = {**QUICK, "ECHO_DEVICE_TIMEOUT_S": 1, "ECHO_DEVICE_EXIT": 0, "ECHO_VOICES_DIR": voices, **settings}
            return stack.enter_context(FaultyServer(tmp_path, **values)).wait_ready()

        yield run


def assert_stopped(answer: httpx.Response) -> None:
    assert answer.status_code == 503
    assert answer.json()["error"]["message"] == STOPPED
    assert answer.json()["error"]["code"] == "device_stopped"
    assert int(answer.headers["Retry-After"]) > 0


@pytest.mark.parametrize(
    ("fault", "settings"),
    [
        ({"input": "Now hang."}, {}),
        ({"input": "Now hang."}, {"ECHO_CPU_THREADS": 2}),
        ({"input": "Now die."}, {}),
        ({"input": "Now lose."}, {}),
        ({"input": "Hello.", "voice": "long"}, {}),
    ],
)
def test_everybody_is_told_that_the_device_has_stopped(
    start: Start, fault: dict[str, str], settings: dict[str, object]
) -> None:
    server = start(**settings)
    assert server.get("/health").status_code == 200
    begun = {"input": f"Hello. [pause:10ms] {fault['input']}", "response_format": "pcm"}
    with server.listen(begun) as listener, ThreadPoolExecutor() as clients:
        assert listener.some()
        assert_stopped(clients.submit(server.speak, **fault).result())
        if "voice" not in fault:  # with that one there is nothing wrong
            with pytest.raises(httpx.RemoteProtocolError):
                listener.rest()
    eventually(lambda: server.get("/health").status_code == 503, "liveness to fail")
    assert server.get("/health").json()["status"] == "stopped"
    assert server.get("/ready").status_code == 503
    assert_stopped(server.speak("Is anybody there?"))
    refused = httpx.post(f"{server.url}/tts/v1/voice", json={"text": "Hello.", "voiceId": "anna"})
    assert (refused.status_code, refused.json()["message"]) == (503, STOPPED)
    server.wait_idle()
    assert server.running
    assert STOPPED in server.log


def test_whoever_does_not_fit_into_the_memory_is_told_to_come_back_and_the_rest_goes_on(start: Start) -> None:
    server = start(ECHO_DEVICE_TIMEOUT_S=3600)
    others = {"input": "Hello there. " * 40, "response_format": "pcm"}
    with ThreadPoolExecutor(8) as clients:
        for fault in ({"input": "Fill it."}, {"input": "Hello.", "voice": "brief"}):
            beside = [clients.submit(server.speak, **others) for _ in range(4)]
            refused = [clients.submit(server.speak, **fault) for _ in range(2)]
            for answer in (each.result() for each in refused):
                assert answer.status_code == 503
                assert answer.json()["error"]["code"] == "out_of_memory"
                assert "CUDA" not in answer.text
                assert int(answer.headers["Retry-After"]) > 0
            assert len({answer.result().content for answer in beside}) == 1
            assert all(answer.result().status_code == 200 for answer in beside)
    with server.listen({"input": "Hello. [pause:10ms] Fill it.", "response_format": "pcm"}) as listener:
        assert listener.some()
        with pytest.raises(httpx.RemoteProtocolError):  # a stream that has begun breaks off visibly
            listener.rest()
    assert server.get("/ready").status_code == 200
    assert server.speak("All is well.").status_code == 200
    server.wait_idle()


@pytest.mark.parametrize("text", ["Now hang.", "Now die."])
def test_the_process_ends_by_itself_with_a_status_of_its_own(start: Start, text: str) -> None:
    server = start(ECHO_DEVICE_EXIT=1)
    with server.post({"input": text}):
        assert server.wait() == DEVICE_STOPPED
    assert STOPPED in server.log


@pytest.mark.parametrize(("number", "threads"), [(signal.SIGTERM, 0), (signal.SIGINT, 2)])
def test_a_signal_ends_the_process_while_the_device_hangs(start: Start, number: signal.Signals, threads: int) -> None:
    server = start(ECHO_DEVICE_TIMEOUT_S=3600, ECHO_SHUTDOWN_GRACE_S=1, ECHO_CPU_THREADS=threads)
    with server.post({"input": "Now hang."}):
        eventually(lambda: server.metric("echo_device_busy_seconds") > 1, "the device to be at it for a while")
        assert server.get("/health").status_code == 200  # it may take its time
        assert server.get("/ready").status_code == 200
        server.send_signal(number)
        assert server.wait() in (0, 130, -number, DEVICE_STOPPED)
