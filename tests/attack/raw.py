"""Bare connections to a server on loopback: for what no client library would send. Every wait has an end."""

from __future__ import annotations

import http.client
import io
import json
import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

#: Far longer than anything here takes on a slow machine: whoever waits this long hangs.
PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def request(
    method: str = "GET", path: str = "/health", body: bytes | None = None, *lines: str, host: str = "localhost"
) -> bytes:
    """The bytes of a request; ``lines`` are more header lines."""
    length = [f"Content-Length: {len(body)}"] if body is not None else []
    head = "\r\n".join([f"{method} {path} HTTP/1.1", f"Host: {host}", *length, *lines])
    return head.encode("utf-8", "surrogateescape") + b"\r\n\r\n" + (body or b"")


def speech(**fields: object) -> bytes:
    """The bytes of a speech request."""
    return request("POST", "/v1/audio/speech", json.dumps({"input": "Hello there.", **fields}).encode())


class _Kept(io.BufferedReader):
    """Read by one answer after another: what one has read too much of is the next one's."""

    def makefile(self, mode: str) -> Self:
        return self

    def close(self) -> None:
        """Stay open: the connection closes it."""


class Raw:
    """A connection that sends exactly what it is told to."""

    def __init__(self, port: int, *, receive_buffer: int | None = None, source: str = "127.0.0.1") -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:  # before connecting: the window is told then
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.bind((source, 0))  # all of 127.0.0.0/8 is this machine: other clients, to the server
        self._file: _Kept | None = None
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect(("127.0.0.1", port))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def send(self, data: bytes) -> bool:
        """Send it all; False when the other end does not take it."""
        try:
            self.socket.sendall(data)
        except (OSError, TimeoutError):
            return False
        return True

    def pour(self, piece: bytes, count: int, seconds: float = PATIENCE_S) -> int:
        """Send a piece up to ``count`` times, for as long as the other end takes it; returns how often it did."""
        deadline = time.monotonic() + seconds
        for done in range(count):
            if time.monotonic() > deadline or not self.send(piece):
                return done
        return count

    def answer(self, method: str = "GET") -> Answer:
        """Read one answer; raises OSError or http.client.HTTPException when there is none."""
        if self._file is None:
            self._file = _Kept(socket.SocketIO(self.socket, "r"))
        response = http.client.HTTPResponse(self._file, method=method)  # type: ignore[arg-type]
        response.begin()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, response.read())

    def ask(self, data: bytes, method: str = "GET") -> Answer:
        """Send a request and read its answer."""
        self.send(data)
        return self.answer(method)

    def reset(self) -> None:
        """Close without a farewell."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def closed(self, seconds: float = PATIENCE_S) -> bool:
        """Wait for the other end to close, throwing away what it sends; False if it does not."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                if not self.socket.recv(2**16):
                    return True
            except TimeoutError:
                return False
            except OSError:
                return True
        return False


def trickle(connection: Raw, data: bytes, every_s: float, seconds: float) -> bool:
    """Send a byte now and then; True when the other end has closed before the time was up."""
    deadline = time.monotonic() + seconds
    for place in range(len(data)):
        if not connection.send(data[place : place + 1]) or connection.closed(every_s):
            return True
        if time.monotonic() > deadline:
            return False
    return False


def ask(port: int, data: bytes, method: str = "GET", **options: Any) -> Answer:
    """Send a request over a connection of its own and read the answer."""
    with Raw(port, **options) as connection:
        return connection.ask(data, method)


def named(headers: Mapping[str, str]) -> tuple[str, ...]:
    """Header lines from names and values."""
    return tuple(f"{name}: {value}" for name, value in headers.items())
