"""Faults of the machine: descriptors that run out, a process that is stopped for a while."""

from __future__ import annotations

import signal
import time
from contextlib import ExitStack
from pathlib import Path

from tests.attack.conftest import PATIENCE, Target
from tests.attack.raw import Raw, ask, request
from tests.e2e.server_process import ServerProcess
from tests.processes import ROOT, eventually


def test_descriptors_that_run_out(tmp_path: Path) -> None:
    settings = {**PATIENCE, "ECHO_VOICES_DIR": ROOT / "audio_prompts", "ECHO_CLIENT_SHARE": 1}
    with ServerProcess(tmp_path, descriptors=128, **settings) as process:
        process.wait_ready()
        target = Target(process)
        with ExitStack() as stack:
            silent = [stack.enter_context(Raw(target.port)) for _ in range(300)]
            for connection in silent:
                connection.send(b"GET /health HTTP/1.1\r\n")
            # Those who ask are answered meanwhile, and files can still be opened.
            for _ in range(10):
                assert ask(target.port, request(), source="127.0.0.2").status == 200
            assert process.speak("There is room for a clip.", voice="tiny_beth").status_code == 200
            eventually(lambda: "connections are open" in process.log, "a line in the log")
        target.assert_unharmed()
        process.send_signal(signal.SIGTERM)
        process.assert_ends_cleanly(signal.SIGTERM)


def test_a_process_that_is_stopped_for_a_while(target: Target) -> None:
    with ExitStack() as stack:
        waiting = [stack.enter_context(Raw(target.port)) for _ in range(20)]
        target.process.send_signal(signal.SIGSTOP)
        try:
            for connection in waiting:
                connection.send(request())
            time.sleep(1)
        finally:
            target.process.send_signal(signal.SIGCONT)
        assert [connection.answer().status for connection in waiting] == [200] * 20
