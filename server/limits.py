"""Limits of connections, as plain values: their number, the size of a head, the length of a silence."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

from echo.settings import Settings
from server.address import Network, parse_networks

#: Most connections unless a setting says otherwise; each takes some kilobytes.
_MOST_CONNECTIONS = 1000
#: File descriptors reserved for files, pipes of child processes and the log.
_RESERVED_DESCRIPTORS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """Limits of all connections together and of each."""

    #: Open connections in total, and from one address.
    connections: int
    client_connections: int
    #: A connection whose file descriptor has this number or a higher one replaces an idle one or is refused; None = not
    #: known here.
    descriptors: int | None = None
    #: Longest silence before the first request, and longest time for its head, in seconds.
    receive_s: float = 20.0
    #: Longest silence after an answer, in seconds.
    keep_alive_s: float = 75.0
    #: Longest time without progress while there is something to send, in seconds.
    send_s: float = 30.0
    #: A refused body is read and dropped for this long, and up to this size, so that the client sees the answer.
    linger_s: float = 20.0
    linger_bytes: int = 256 * 2**20
    #: Addresses of proxies, each of which stands for many clients.
    trusted: tuple[Network, ...] = ()
    #: Bytes of a request line, or of all headers; larger than browsers and proxies allow.
    head_bytes: int = 64 * 1024
    #: Header lines of a request; Apache's default.
    headers: int = 100
    #: Bytes of a socket's frames without a complete message: the largest message, and some.
    endless_bytes: int = 6 * 2**20
    #: What of it every socket may have, two messages of text, and what all together may have beyond that.
    frames_bytes: int = 2 * 2**20
    large_frames_bytes: int = 256 * 2**20
    #: Requests on one connection that wait for the one before them.
    pipelined: int = 16
    #: Bytes handed to the HTTP server, or to a socket, in one turn of the event loop. A piece full of tiny chunks or
    #: frames takes about 10 ms.
    turn_bytes: int = 32 * 1024
    socket_turn_bytes: int = 4 * 1024
    #: The kernel's send buffer of a connection in bytes; by default it would take megabytes of unread audio.
    send_buffer: int = 256 * 1024


def connection_limits(settings: Settings) -> ConnectionLimits:
    """Return the limits that follow from the settings and from the process's limit on file descriptors."""
    descriptors = _descriptors()
    most = settings.max_connections or _MOST_CONNECTIONS
    ceiling = None
    if descriptors is not None:
        ceiling = descriptors - min(_RESERVED_DESCRIPTORS, descriptors // 4)
        most = min(most, ceiling)
    return ConnectionLimits(
        connections=most,
        client_connections=max(1, math.ceil(most * settings.client_share)),
        descriptors=ceiling,
        receive_s=settings.receive_timeout_s,
        keep_alive_s=settings.keep_alive_s,
        send_s=settings.send_timeout_s,
        large_frames_bytes=settings.max_incoming_bytes,
        trusted=parse_networks(settings.trusted_proxies),
    )


def _descriptors() -> int | None:
    """Return the process's limit on file descriptors; None where there is none or it is not known."""
    if sys.platform == "win32":
        return None
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft
