"""A web server that hands out clips, or misbehaves, on loopback."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import soundfile

Answer = Callable[[BaseHTTPRequestHandler], None]


def clip(seconds: float = 1.0, hertz: float = 150.0) -> bytes:
    """Return a WAV file that can serve as a voice."""
    file = io.BytesIO()
    samples = 0.2 * np.sin(2 * np.pi * hertz / 44_100 * np.arange(int(seconds * 44_100)))
    soundfile.write(file, samples, 44_100, format="WAV", subtype="PCM_16")
    return file.getvalue()


def body(data: bytes, status: int = 200, **headers: str) -> Answer:
    """Answer with these bytes; ``_`` in the names of headers stands for ``-``."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    return answer


def redirect(location: str, status: int = 302) -> Answer:
    return body(b"", status, Location=location)


def endless(request: BaseHTTPRequestHandler) -> None:
    """Send bytes without end."""
    request.send_response(200)
    request.end_headers()
    while True:
        request.wfile.write(b"RIFF" + bytes(65532))


@dataclass(slots=True)
class Bucket:
    """What the server has, by path; and what it has been asked for."""

    host: str
    port: int = 0
    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)
    traceparents: list[str | None] = field(default_factory=list)
    #: Released at the end of the test.
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}/voices"

    def put(self, name: str, data: bytes) -> None:
        self.answers[f"/voices/{name}"] = body(data)

    def stalled(self, request: BaseHTTPRequestHandler) -> None:
        """Send a little, and then nothing."""
        request.send_response(200)
        request.end_headers()
        request.wfile.write(b"RIFF")
        request.wfile.flush()
        self.over.wait(30)

    def trickling(self, request: BaseHTTPRequestHandler) -> None:
        """Send a byte now and then."""
        request.send_response(200)
        request.end_headers()
        while not self.over.is_set():
            request.wfile.write(b"R")
            request.wfile.flush()
            time.sleep(0.02)

    def of(self, voice_id: str) -> list[str]:
        """Return the names that were asked for of a voice."""
        return [path.removeprefix("/voices/") for path in self.asked if path.startswith(f"/voices/{voice_id}.")]


@contextmanager
def open_bucket(host: str = "127.0.0.1") -> Iterator[Bucket]:
    bucket = Bucket(host)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"

        def do_GET(self) -> None:
            bucket.asked.append(self.path)
            bucket.traceparents.append(self.headers["traceparent"])
            bucket.hosts.add(self.headers["Host"])
            answer = bucket.answers.get(self.path, body(b"<Error/>", 404))
            try:
                answer(self)
            except OSError:
                self.close_connection = True  # the client has left

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer((host, 0), Handler)
    server.daemon_threads = True
    bucket.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield bucket
    finally:
        bucket.over.set()
        server.shutdown()
        server.server_close()
        thread.join()
