"""The transport that the HTTP server and its sockets write to: it counts bytes and leaves closing to the gate."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Protocol

from typing_extensions import override


class Closer(Protocol):
    """What closes the connection for the transport."""

    closing: bool

    def close(self) -> None:
        """End the connection once everything has been sent."""
        ...

    def switch(self, protocol: asyncio.BaseProtocol) -> None:
        """Pass what is received to another protocol from now on."""
        ...

    def pause(self) -> None:
        """Pass nothing on for now."""
        ...

    def resume(self) -> None:
        """Pass on again what is received."""
        ...


class CountingTransport(asyncio.Transport):
    """Wraps a connection's transport and counts the bytes that are written."""

    def __init__(self, inner: asyncio.Transport, gate: Closer, protocol: asyncio.BaseProtocol) -> None:
        super().__init__()
        self.written = 0
        self._inner = inner
        self._gate = gate
        self._protocol = protocol

    # -- writing

    @override
    def write(self, data: bytes | bytearray | memoryview) -> None:
        # Dropped once the connection is about to end.
        if self._gate.closing:
            return
        self.written += len(data)
        self._inner.write(data)

    @override
    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))

    @override
    def write_eof(self) -> None:
        self._inner.write_eof()

    @override
    def can_write_eof(self) -> bool:
        return self._inner.can_write_eof()

    @override
    def get_write_buffer_size(self) -> int:
        return self._inner.get_write_buffer_size()

    @override
    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._inner.get_write_buffer_limits()

    @override
    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._inner.set_write_buffer_limits(high, low)

    # -- reading

    @override
    def is_reading(self) -> bool:
        return self._inner.is_reading()

    @override
    def pause_reading(self) -> None:
        # Not while the rest of a body is being read and dropped.
        if not self.is_closing():
            self._gate.pause()

    @override
    def resume_reading(self) -> None:
        if not self.is_closing():
            self._gate.resume()

    # -- the connection

    @override
    def is_closing(self) -> bool:
        return self._gate.closing or self._inner.is_closing()

    @override
    def close(self) -> None:
        self._gate.close()

    @override
    def abort(self) -> None:
        self._inner.abort()

    @override
    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        # The request has become a socket.
        self._protocol = protocol
        self._gate.switch(protocol)

    @override
    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    @override
    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._inner.get_extra_info(name, default)
