"""Which of the project's files one warm request enters, up to its first byte and to its end.

    python -m bench.spine

A server with the embedded model runs in this process and has answered the same request once before. A file counts when
any function in it is entered, on any thread; what the client does is not counted, nor what happens between requests.
"""

from __future__ import annotations

import http.client
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import uvicorn

from api_server import create_app
from bench import ROOT
from echo.runtime import Runtime
from echo.settings import load_settings
from server.serve import configure

_BODY = json.dumps({"input": "The library is open.", "response_format": "pcm", "seed": 1})
_BENCH = str(ROOT / "bench")


class EnteredFiles:
    """Records the source files whose functions are entered while ``recording``; install before threads start."""

    def __init__(self) -> None:
        self.recording = False
        self.paths: set[str] = set()

    def install(self) -> None:
        """Watch this thread and every thread started from now on."""
        threading.setprofile(self._profile)
        sys.setprofile(self._profile)

    def project_files(self) -> list[str]:
        """The project's files among them, relative to the checkout."""
        inside = (path for path in self.paths if path.startswith(f"{ROOT}/") and not path.startswith(_BENCH))
        return sorted(str(Path(path).relative_to(ROOT)) for path in inside)

    def _profile(self, frame: FrameType, event: str, argument: object) -> None:
        if self.recording and event == "call" and frame.f_code.co_name != "<module>":
            self.paths.add(frame.f_code.co_filename)


def main() -> None:
    """Serve, warm up, count."""
    entered = EnteredFiles()
    entered.install()
    with _serving() as port:
        _request(port, entered)
        entered.paths.clear()
        first_byte = _request(port, entered)
    files = entered.project_files()
    for name in files:
        print(" " if name in first_byte else "+", name)
    print(f"{len(first_byte)} files up to the first byte, {len(files)} to the end (+ = after the first byte)")


def _request(port: int, entered: EnteredFiles) -> set[str]:
    """Send the request and read the answer; returns the files entered before its first byte."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.connect()
    entered.recording = True
    connection.request("POST", "/v1/audio/speech", _BODY, {"Content-Type": "application/json"})
    response = connection.getresponse()
    response.read(1)
    first_byte = set(entered.project_files())
    response.read()
    entered.recording = False
    connection.close()
    if response.status != 200:
        raise SystemExit(f"the server answered {response.status}")
    return first_byte


@contextmanager
def _serving() -> Iterator[int]:
    settings = load_settings({}, model_repo="tiny", device="cpu", compile=False)
    runtime = Runtime(settings)
    app = create_app(settings, runtime)
    server = uvicorn.Server(configure(app, settings, runtime.metrics, lifespan="on", access_log=False))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while thread.is_alive() and not (server.started and runtime.is_ready):
                time.sleep(0.1)
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


if __name__ == "__main__":
    main()
