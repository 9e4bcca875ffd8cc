"""The transport that the HTTP server and its sockets write to: it counts what they write, and its gate closes it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Protocol


class Closer(Protocol):
    """What closes the connection for the transport."""

    closing: bool

    def close(self) -> None:
        """End the connection once everything has been sent."""
        ...

    def switch(self, protocol: asyncio.BaseProtocol) -> None:
        """Hand what is received to another protocol from now on."""
        ...

    def pause(self) -> None:
        """Hand on nothing for now."""
        ...

    def resume(self) -> None:
        """Hand on again what is received."""
        ...


class CountingTransport(asyncio.Transport):
    """Passes everything on to a connection's own transport, and counts the bytes that are written."""

    def __init__(self, inner: asyncio.Transport, gate: Closer, protocol: asyncio.BaseProtocol) -> None:
        super().__init__()
        self.written = 0
        self._inner = inner
        self._gate = gate
        self._protocol = protocol

    # -- writing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write, or buffer what the system does not take now; nothing once the connection is about to end."""
        if self._gate.closing:
            return
        self.written += len(data)
        self._inner.write(data)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Write several pieces as one."""
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        """Say that nothing more will be written."""
        self._inner.write_eof()

    def can_write_eof(self) -> bool:
        """Tell whether that can be said."""
        return self._inner.can_write_eof()

    def get_write_buffer_size(self) -> int:
        """Bytes that the system has not taken yet."""
        return self._inner.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Low and high water mark of the buffer."""
        return self._inner.get_write_buffer_limits()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the water marks of the buffer."""
        self._inner.set_write_buffer_limits(high, low)

    # -- reading

    def is_reading(self) -> bool:
        """True unless reading is paused."""
        return self._inner.is_reading()

    def pause_reading(self) -> None:
        """Take nothing from the client for now; not while the rest of a body is being thrown away."""
        if not self.is_closing():
            self._gate.pause()

    def resume_reading(self) -> None:
        """Take from the client again."""
        if not self.is_closing():
            self._gate.resume()

    # -- the connection

    def is_closing(self) -> bool:
        """True once the connection is about to end."""
        return self._gate.closing or self._inner.is_closing()

    def close(self) -> None:
        """End the connection once everything has been sent."""
        self._gate.close()

    def abort(self) -> None:
        """End the connection now."""
        self._inner.abort()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Hand what is received to another protocol: the request has become a socket."""
        self._protocol = protocol
        self._gate.switch(protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return who gets what is received."""
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what is known of the connection."""
        return self._inner.get_extra_info(name, default)
