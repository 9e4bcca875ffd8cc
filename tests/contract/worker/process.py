"""The real worker in a process of its own, with the embedded model: ``python -m worker``."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

ROOT = Path(__file__).resolve().parents[3]
#: Far longer than anything here takes on a slow machine: whoever waits this long hangs.
PATIENCE_S = 120.0

_FOREIGN = ("ECHO_", "RUNPOD_", "S3_", "HF_", "AUDIO_VOICES", "OUTPUT_AUDIO", "STREAM_")


def environment(folder: Path, **settings: object) -> dict[str, str]:
    """The environment of a worker: without the settings of whoever runs the tests, with these, without a network."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(_FOREIGN)}
    own = {"HF_HUB_OFFLINE": 1, "ECHO_MODEL_REPO": "tiny", "OUTPUT_AUDIO_DIR": folder / "output", "PYTHONPATH": ROOT}
    return {**inherited, **{name: str(value) for name, value in {**own, **settings}.items()}}


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait for another process to get there; fails when it never does."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.02)


class WorkerProcess:
    """A running worker; leaving the context ends it. ``settings`` are environment variables."""

    def __init__(self, folder: Path, *arguments: str, **settings: object) -> None:
        folder.mkdir(exist_ok=True)
        self._log = folder / "worker.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "worker", *arguments],
                cwd=folder,
                env=environment(folder, **settings),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    @property
    def log(self) -> str:
        """Everything said so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, text: str) -> None:
        """Wait for a line in the log."""
        eventually(lambda: text in self.log or self._process.poll() is not None, f"{text!r} in {self.log}")
        assert text in self.log, self.log

    def stop(self) -> int:
        """End it as the platform does and return its status."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(PATIENCE_S)


class LocalServer(WorkerProcess):
    """A worker behind the SDK's own local server."""

    def __init__(self, folder: Path, **settings: object) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        super().__init__(folder, "--rp_serve_api", "--rp_api_host", "127.0.0.1", "--rp_api_port", str(port), **settings)

    def post(self, path: str, **job: object) -> dict[str, object]:
        """Post a job, or nothing, and return the answer."""
        body = {"json": {"input": job}} if job else {}
        return dict(httpx.post(f"{self.url}{path}", timeout=PATIENCE_S, **body).json())  # type: ignore[arg-type]


def run_once(folder: Path, *arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """Run a worker that ends by itself."""
    return subprocess.run(
        [sys.executable, "-m", "worker", *arguments],
        cwd=folder,
        env=environment(folder, **settings),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
