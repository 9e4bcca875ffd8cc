"""Which addresses of the network the server may connect to on behalf of a client: public ones only."""

from __future__ import annotations

import asyncio
import ipaddress
import socket

#: All addresses of IPv6 that are routed in public (IANA's registry of its address space).
_ROUTED = ipaddress.ip_network("2000::/3")
#: Addresses of IPv4 as networks of IPv6 alone write them (RFC 6052).
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Tell whether an address belongs to the public network; one that holds another, only if that one does as well."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv4Address):
        return ip.is_global and not ip.is_multicast
    if ip.ipv4_mapped is not None:
        return is_public(str(ip.ipv4_mapped))
    if ip in _NAT64:
        return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)))
    if ip.sixtofour is not None and not is_public(str(ip.sixtofour)):
        return False
    return ip in _ROUTED and ip.is_global


def is_loopback(address: str) -> bool:
    """Tell whether an address is this machine's own."""
    return ipaddress.ip_address(address).is_loopback


async def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host, best first; raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
