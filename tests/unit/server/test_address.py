import pytest

from server.address import host, is_within, network, parse_networks


@pytest.mark.parametrize(
    ("peer", "client"),
    [
        (("192.0.2.7", 5000), "192.0.2.7"),
        (("::1", 5000, 0, 0), "::/64"),
        (("2001:db8::1:2", 5000, 0, 0), "2001:db8::/64"),
        (("2001:db8::ffff:1", 5000, 0, 0), "2001:db8::/64"),
        (("fe80::1%eth0", 5000, 0, 2), "fe80::/64"),
        (("::ffff:192.0.2.7", 5000, 0, 0), "192.0.2.7"),
        (("unix:name", 0), "unix:name"),
        ("", ""),
        (None, ""),
    ],
)
def test_what_counts_as_one_client(peer: object, client: str) -> None:
    assert network(peer) == client


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        (("127.0.0.1", 5000), "127.0.0.1"),
        (("::1", 5000, 0, 0), "::1"),
        (("::ffff:127.0.0.1", 5000, 0, 0), "127.0.0.1"),
        (("fe80::1%eth0", 5000, 0, 2), "fe80::1"),
        ("", ""),
        (None, ""),
    ],
)
def test_the_address_itself(peer: object, address: str) -> None:
    assert host(peer) == address


@pytest.mark.parametrize(
    ("client", "trusted", "within"),
    [
        ("192.0.2.7", ["192.0.2.7"], True),
        ("192.0.2.7", ["192.0.2.8"], False),
        ("10.1.2.3", ["192.0.2.1", "10.0.0.0/8"], True),
        ("2001:db8::/64", ["2001:db8::5"], True),
        ("2001:db8::/64", ["10.0.0.0/8"], False),
        ("10.1.2.3", ["*"], True),
        ("2001:db8::/64", ["*"], True),
        ("", ["*"], False),
        ("10.1.2.3", [], False),
    ],
)
def test_who_is_a_proxy(client: str, trusted: list[str], within: bool) -> None:
    assert is_within(client, parse_networks(trusted)) is within
