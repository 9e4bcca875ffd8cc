"""Whether a request comes from the server's own machine, and through no proxy."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.types import Scope

from routes.origin import host_name, is_loopback
from server.address import Network, host, is_within

#: Headers that proxies add, besides ``X-Forwarded-...``.
_OF_PROXIES = frozenset({b"forwarded", b"via", b"x-real-ip", b"x-client-ip", b"true-client-ip", b"cf-connecting-ip"})


def is_from_here(scope: Scope, proxies: Sequence[Network] = ()) -> bool:
    """Whether somebody on this machine has sent a request; ``proxies`` are those whose headers are believed.

    What matters is the connection's own other end, which a header cannot change. A proxy on this machine is at
    loopback for everybody: it is known by the settings, by what it adds to the headers, or by the host that it passes
    on.
    """
    connection = scope.get("state", {}).get("connection")
    peer = connection.peer if connection is not None else host(scope.get("client"))
    if not is_loopback(peer) or is_within(peer, proxies):
        return False
    hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
    if len(hosts) != 1 or not is_loopback(host_name(hosts[0])):
        return False
    return not any(name in _OF_PROXIES or name.startswith(b"x-forwarded-") for name, _ in scope["headers"])
