"""Which network addresses count as one client."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

#: IPv6 addresses are handed out by networks of this size: all of one count as the same client.
_IPV6_PREFIX = 64

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse_networks(written: Iterable[str]) -> tuple[Network, ...]:
    """Return addresses and networks such as ``10.0.0.0/8``; ``*`` is all of them. Raises ValueError."""
    every = ("0.0.0.0/0", "::/0")
    return tuple(
        ipaddress.ip_network(part, strict=False) for one in written for part in (every if one == "*" else (one,))
    )


def is_within(client: str, networks: Iterable[Network]) -> bool:
    """Whether a client, as ``network`` has named it, lies in one of the networks."""
    try:
        own = ipaddress.ip_network(client)
    except ValueError:
        return False
    return any(own.version == other.version and own.overlaps(other) for other in networks)


def host(peer: object) -> str:
    """Return the address of a socket's peer, an IPv4 one as such; "" for a Unix socket."""
    if not isinstance(peer, tuple | list) or not peer:
        return ""
    name = str(peer[0]).partition("%")[0]
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name[:64]
    return str(getattr(address, "ipv4_mapped", None) or address)


def network(peer: object) -> str:
    """Return what a socket's peer is counted by: its IPv4 address, or its IPv6 network; "" for a Unix socket."""
    name = host(peer)
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, _IPV6_PREFIX), strict=False))
    return str(address)
