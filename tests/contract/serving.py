"""A real server on a real port, with an engine that makes sines instead of speech."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soundfile
import uvicorn

from api_server import create_app
from echo.engines.fake import FakeEngine, FakeScript
from echo.engines.table import EngineLoader
from echo.runtime import Runtime, Status
from echo.settings import Settings
from echo.types import Audio, Utterance
from routes.surface import Surface
from server.serve import configure

#: Longer than anything here takes on a slow machine; only a failing test waits for it.
PATIENCE_S = 30.0
#: The same for a model to be loaded, of a foreign engine in a process of its own too.
LOADING_S = 240.0
#: How long a client that hangs up with audio unread waits for the server's goodbye, which lies behind that.
HANG_UP_S = 0.2


def wait_until(condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    """Wait for another thread to get there; fails when it never does."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.002)


class Gate:
    """A ``FakeScript.render`` that makes the engine wait before block ``block`` until ``open`` is called."""

    def __init__(self, block: int = 0, patience_s: float = PATIENCE_S) -> None:
        self.block = block
        self.patience_s = patience_s
        self.reached = threading.Event()
        #: True when the engine went on because nobody opened the gate: what was waited for did not happen.
        self.expired = False
        self._opened = threading.Event()

    def open(self) -> None:
        self._opened.set()

    def __call__(self, utterance: Utterance, block: int, count: int) -> Audio:
        if block >= self.block:
            self.reached.set()
            self.expired = self.expired or not self._opened.wait(self.patience_s)
        return np.full(count, 0.25, np.float32)


@dataclass(slots=True)
class Served:
    """A server that is running in a thread of this process."""

    port: int
    runtime: Runtime
    engine: FakeEngine

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    @property
    def script(self) -> FakeScript:
        return self.engine.script

    @property
    def open_requests(self) -> int:
        return self.runtime.service.admission.open

    def wait_ready(self) -> None:
        """Wait until a real model has been loaded and warmed up."""
        wait_until(lambda: self.runtime.status is not Status.LOADING, LOADING_S)
        assert self.runtime.is_ready, self.runtime.failure

    def wait_idle(self) -> None:
        """Wait until no request holds a slot."""
        wait_until(lambda: self.open_requests == 0)

    def connect(self) -> socket.socket:
        """Open a bare connection."""
        return socket.create_connection(("127.0.0.1", self.port), PATIENCE_S)

    def send(self, body: bytes | dict[str, Any], path: str = "/v1/audio/speech", headers: str = "") -> socket.socket:
        """Post a body over a bare connection, without reading the answer; closing the socket hangs up."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection = self.connect()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n{headers}\r\n"
        connection.sendall(head.encode() + data)
        return connection


@contextmanager
def serving(
    settings: Settings, load_engine: EngineLoader | None = None, surfaces: Sequence[Surface] = ()
) -> Iterator[Served]:
    """Run the application under uvicorn, with the fake engine unless the settings name another.

    With ``load_engine`` the caller decides when it is ready; ``surfaces`` are wire formats to mount beside the others.
    """
    engine = FakeEngine()
    fake = (lambda settings, gate: engine) if settings.engine_names == ("echo",) else None
    runtime = Runtime(settings, load_engine=load_engine or fake)
    app = create_app(settings, runtime, surfaces)
    config = configure(app, settings, runtime.metrics, lifespan="on", timeout_graceful_shutdown=1, access_log=False)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="server")
        thread.start()
        try:
            wait_until(lambda: server.started or not thread.is_alive())
            if load_engine is None:
                wait_until(lambda: runtime.status is not Status.LOADING, PATIENCE_S if fake else LOADING_S)
                assert runtime.is_ready, runtime.failure
            yield Served(listener.getsockname()[1], runtime, engine)
        finally:
            server.should_exit = True
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), "the server did not stop"


class Serve(Protocol):
    """Start a server with these settings; it stops at the end of the test."""

    def __call__(self, load_engine: EngineLoader | None = None, **settings: Any) -> Served: ...


def write_voice(path: Path, seconds: float = 1.0) -> None:
    """Write a clip that can serve as a voice."""
    phase = 2 * np.pi * 150 / 44_100 * np.arange(int(seconds * 44_100))
    soundfile.write(path, 0.2 * np.sin(phase), 44_100, subtype="PCM_16")
