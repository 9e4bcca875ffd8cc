"""The real server in a process of its own, on a free port, with the embedded model; and what to ask it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.processes import PATIENCE_S, ROOT, LoggedProcess, eventually

#: Settings with which the warm-up takes a moment: for servers whose speech is not what a test is about.
QUICK = {"ECHO_PRESETS_FILE": Path(__file__).with_name("quick_presets.toml")}

_ADDRESS = re.compile(r"running on (http://127\.0\.0\.1:\d+)")

#: Minutes of work behind a first block that is cheap: whatever is seen while it runs is seen in the middle. Many small
#: steps, because those take their time on a fast machine too.
ENDLESS = {
    "input": "This sentence is one of very many that nobody is going to hear to the end. " * 50,
    "response_format": "pcm",
    "block_sizes": [16] * 16,
    "num_steps": [2] + [100] * 15,
    "early_stop_on_zero": False,
    "seed": 0,
}


def clean_environment(**settings: object) -> dict[str, str]:
    """The environment without the settings of whoever runs the tests, with these, and without a network."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("ECHO_") and k not in ("HOST", "PORT")}
    # No test waits for a balancer that is not there.
    given = {"HF_HUB_OFFLINE": "1", "ECHO_DRAIN_S": 0, **settings}
    return {**inherited, **{name: str(value) for name, value in given.items()}}


class Listener:
    """Reads an answer as far as it is told to."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._pieces = response.iter_raw()  # kept: httpx hangs up as soon as nobody holds it any more

    def some(self) -> bytes:
        """The next 0.1 s of audio at 44.1 kHz, or more."""
        got = b""
        while len(got) < 8820:
            got += next(self._pieces)
        return got

    def rest(self) -> bytes:
        """Everything up to the end; raises httpx.RemoteProtocolError when it is broken off."""
        return b"".join(self._pieces)


class ServerProcess(LoggedProcess):
    """``python api_server.py --port 0 …``; leaving the context ends it. ``settings`` are environment variables.

    ``session``: in a session and process group of its own, as a terminal would start it. ``descriptors`` limits how
    many files and connections it may have open.
    """

    program = ROOT / "api_server.py"

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        session: bool = False,
        descriptors: int | None = None,
        **settings: object,
    ) -> None:
        log, self._stdout = folder / "stderr.log", folder / "stdout.log"
        with log.open("wb") as stderr, self._stdout.open("wb") as stdout:
            command = [sys.executable, str(self.program), "--port", "0", *arguments]
            if descriptors is not None:
                command = ["sh", "-c", 'ulimit -n "$0" && exec "$@"', str(descriptors), *command]
            process = subprocess.Popen(
                command,
                cwd=folder,  # not the checkout: it has to find its files from anywhere
                env=clean_environment(**settings),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=session,
            )
        super().__init__(process, log)

    # -- the process

    @property
    def output(self) -> str:
        """Everything said on standard output so far."""
        return self._stdout.read_text(encoding="utf-8")

    @property
    def pid(self) -> int:
        return self._process.pid

    def send_signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """Wait for the process to end by itself; returns its status."""
        return self._process.wait(PATIENCE_S)

    def assert_ends_cleanly(self, number: signal.Signals) -> None:
        """Wait for the end that a signal has caused, and check that nothing went wrong on the way there."""
        # Uvicorn passes SIGTERM on to the process when it is done, so that whoever asks sees what ended it.
        status = self.wait()
        assert status in (0, -number), f"status {status}: {self.log}"
        assert "Finished server process" in self.log
        assert "Traceback" not in self.log

    @property
    def url(self) -> str:
        """Where it listens."""
        self.wait_for_log("running on http://")
        match = _ADDRESS.search(self.log)
        assert match is not None
        return match[1]

    def wait_ready(self) -> Self:
        eventually(lambda: not self.running or self.get("/ready").is_success, "readiness", pause_s=0.1)
        assert self.running, self.log
        return self

    # -- requests

    def get(self, path: str, **more: Any) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", timeout=PATIENCE_S, **more)

    def speak(self, input: str, **fields: object) -> httpx.Response:
        """Post a speech request and return the answer, whatever it is; wav and seed 0 unless ``fields`` say more."""
        body = {"input": input, "response_format": "wav", "seed": 0, **fields}
        return httpx.post(f"{self.url}/v1/audio/speech", json=body, timeout=PATIENCE_S)

    @contextmanager
    def listen(self, body: Mapping[str, object]) -> Iterator[Listener]:
        """Post a speech request and read the answer as it comes; leaving the context hangs up."""
        url = f"{self.url}/v1/audio/speech"
        with httpx.stream("POST", url, json=dict(body), timeout=PATIENCE_S) as response:
            assert response.status_code == 200, response.read()
            yield Listener(response)

    def post(self, body: Mapping[str, object]) -> socket.socket:
        """Send a speech request without reading the answer; closing the connection hangs up."""
        data = json.dumps(body).encode()
        head = f"POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
        address = httpx.URL(self.url)
        connection = socket.create_connection((address.host, address.port or 80), PATIENCE_S)
        connection.sendall(head.encode() + data)
        return connection

    # -- metrics

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's values with these labels; 0 where it has not been counted yet."""
        families = text_string_to_metric_families(self.get("/metrics").text)
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        return sum((sample.value for sample in samples if labels.items() <= sample.labels.items()), 0.0)

    def outcomes(self, outcome: str) -> float:
        """How many requests ended like this: done, failed or cancelled."""
        return self.metric("echo_requests_total", outcome=outcome)

    @property
    def open_streams(self) -> float:
        return self.metric("echo_open_streams")

    def wait_idle(self) -> None:
        eventually(lambda: self.open_streams == 0, "no open stream")
