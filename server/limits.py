"""How many connections there may be, how large a head, how long a silence: plain values."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

from echo.settings import Settings
from server.address import Network, parse_networks

#: The most connections that are kept unless a setting says otherwise; each costs some kilobytes.
_MOST_CONNECTIONS = 1000
#: Descriptors that connections leave to files, pipes of child processes and the log.
_RESERVED_DESCRIPTORS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """Limits of all connections together and of each.

    ``connections`` and ``client_connections`` count open ones, in total and from one address. ``descriptors``: a
    connection whose descriptor has this number or a higher one is not kept (None: unknown here). ``receive_s``: longest
    silence before a request, and longest time for its head. ``send_s``: longest time in which not one byte of what is
    to be sent leaves. ``linger_s`` and ``linger_bytes``: what is still read, and thrown away, of a body that nobody
    wants. Addresses in ``trusted`` are those of proxies: many clients each.
    """

    connections: int
    client_connections: int
    descriptors: int | None = None
    receive_s: float = 20.0
    send_s: float = 30.0
    linger_s: float = 20.0
    linger_bytes: int = 256 * 2**20
    trusted: tuple[Network, ...] = ()
    #: Of a request line or the headers as a whole, in bytes; larger than any that browsers and proxies let pass.
    head_bytes: int = 64 * 1024
    #: Header lines of a request; Apache's default.
    headers: int = 100
    #: Bytes of a socket's frames that have not made up a message yet: two of the largest messages.
    frames_bytes: int = 2 * 2**20
    #: Requests on one connection that wait for the one before them.
    pipelined: int = 16
    #: What the HTTP server, or a socket, gets in one turn of the event loop, in bytes: a piece full of tiny chunks or
    #: frames takes some 10 ms.
    turn_bytes: int = 32 * 1024
    socket_turn_bytes: int = 4 * 1024
    #: The system's buffer of a connection, which takes megabytes otherwise, before anybody has read anything.
    send_buffer: int = 256 * 1024


def connection_limits(settings: Settings) -> ConnectionLimits:
    """Return the limits that the settings and the process's descriptors allow."""
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
        send_s=settings.send_timeout_s,
        trusted=parse_networks(settings.trusted_proxies),
    )


def _descriptors() -> int | None:
    """Return how many descriptors this process may have; None where that is not limited or not known."""
    if sys.platform == "win32":
        return None
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft
