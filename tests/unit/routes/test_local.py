"""Who counts as somebody on the server's own machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from routes.local import is_from_here
from server.address import parse_networks


@dataclass
class Connection:
    peer: str


def scope(client: str = "127.0.0.1", peer: str | None = None, **headers: str) -> dict[str, Any]:
    given = {"host": "localhost:8000", **headers}
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in given.items()]
    state = {"connection": Connection(peer)} if peer is not None else {}
    return {"type": "http", "headers": raw, "client": (client, 1234), "state": state}


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.10"])
@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000"])
def test_loopback_is_here(address: str, host: str) -> None:
    assert is_from_here(scope(address, address, host=host))


def test_so_is_loopback_of_the_newer_protocol() -> None:
    assert is_from_here(scope("::1", "::1"))


@pytest.mark.parametrize("address", ["192.0.2.1", "10.0.0.1", "2001:db8::1", "::/64", "", "0.0.0.0"])
def test_other_addresses_are_not(address: str) -> None:
    assert not is_from_here(scope(address, address))


def test_what_a_header_says_of_the_client_is_not_believed() -> None:
    assert not is_from_here(scope("127.0.0.1", "192.0.2.1"))


@pytest.mark.parametrize(
    "name", ["x_forwarded_for", "x_forwarded_proto", "x_forwarded_host", "forwarded", "via", "x_real_ip"]
)
def test_what_has_come_through_a_proxy_on_this_machine_is_not(name: str) -> None:
    assert not is_from_here(scope("127.0.0.1", "127.0.0.1", **{name: "127.0.0.1"}))


@pytest.mark.parametrize("host", ["tts.example.com", "192.0.2.1:8000", "", "localhost.example.com"])
def test_nor_what_was_meant_for_another_host(host: str) -> None:
    assert not is_from_here(scope("127.0.0.1", "127.0.0.1", host=host))


@pytest.mark.parametrize("trusted", ["127.0.0.1", "127.0.0.0/8", "*"])
def test_loopback_of_a_trusted_proxy_is_the_proxys(trusted: str) -> None:
    proxies = parse_networks([trusted])
    assert not is_from_here(scope("127.0.0.1", "127.0.0.1"), proxies)
