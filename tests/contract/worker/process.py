"""The real worker in a process of its own, with the embedded model: ``python -m worker``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx

from tests.processes import PATIENCE_S, ROOT, LoggedProcess, free_port

_FOREIGN = ("ECHO_", "RUNPOD_", "S3_", "HF_", "AUDIO_VOICES", "OUTPUT_AUDIO", "STREAM_")


def environment(folder: Path, **settings: object) -> dict[str, str]:
    """The environment of a worker: without the settings of whoever runs the tests, with these, without a network."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(_FOREIGN)}
    own = {"HF_HUB_OFFLINE": 1, "ECHO_MODEL_REPO": "tiny", "OUTPUT_AUDIO_DIR": folder / "output", "PYTHONPATH": ROOT}
    return {**inherited, **{name: str(value) for name, value in {**own, **settings}.items()}}


class WorkerProcess(LoggedProcess):
    """A running worker; leaving the context ends it. ``settings`` are environment variables."""

    def __init__(self, folder: Path, *arguments: str, **settings: object) -> None:
        folder.mkdir(exist_ok=True)
        path = folder / "worker.log"
        with path.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "worker", *arguments],
                cwd=folder,
                env=environment(folder, **settings),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        super().__init__(process, path)

    def stop(self) -> int:
        """End it as the platform does and return its status."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(PATIENCE_S)


class LocalServer(WorkerProcess):
    """A worker behind the SDK's own local server."""

    def __init__(self, folder: Path, **settings: object) -> None:
        port = free_port()
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
