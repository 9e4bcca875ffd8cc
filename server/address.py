"""Which network addresses count as one client."""

from __future__ import annotations

import ipaddress

#: Whoever has one address of IPv6 has the other ones of its network too.
_IPV6_PREFIX = 64


def network(peer: object) -> str:
    """Return what stands for the client at a socket's address; "" where there is none (a Unix socket)."""
    if not isinstance(peer, tuple | list) or not peer:
        return ""
    host = str(peer[0]).partition("%")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host[:64]
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, _IPV6_PREFIX), strict=False))
    return str(address)
