"""Heads of requests: how large, how many lines, how long they may take; before any key is asked for."""

from __future__ import annotations

import base64
import os

import pytest

from tests.attack.raw import Raw, ask, request, trickle
from tests.contract.clock import Clock
from tests.contract.serving import Serve, Served, wait_until

ENDLESS = 2**16


def metric(served: Served, name: str, **labels: str) -> float:
    return served.runtime.metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.mark.parametrize(
    ("start", "piece", "status"),
    [
        (b"GET /health HTTP/1.1\r\nX-Long: ", b"a" * ENDLESS, 431),
        (b"GET /", b"a" * ENDLESS, 414),
        (b"GET /?", b"a" * ENDLESS, 414),
        (b"GET /health HTTP/1.1\r\n", b"a: b\r\n" * 1000, 431),
        (b"GET /health HTTP/1.1\r\n", b"a" * ENDLESS, 431),
    ],
)
def test_a_head_without_an_end_is_refused_at_once(server: Served, start: bytes, piece: bytes, status: int) -> None:
    with Raw(server.port) as connection:
        connection.send(start)
        connection.pour(piece, 40)
        answer = connection.answer()
        assert answer.status == status
        assert answer.json()["error"]["message"]
        assert answer.headers["connection"] == "close"
    assert ask(server.port, request()).status == 200


@pytest.mark.parametrize(("size", "status"), [(60_000, 200), (70_000, 431)])
def test_a_head_may_have_64_kilobytes(server: Served, size: int, status: int) -> None:
    assert ask(server.port, request("GET", "/health", None, f"X-Large: {'a' * size}")).status == status


@pytest.mark.parametrize(("count", "status"), [(90, 200), (110, 431)])
def test_a_head_may_have_100_lines(server: Served, count: int, status: int) -> None:
    lines = [f"X-{number}: a" for number in range(count)]
    assert ask(server.port, request("GET", "/health", None, *lines)).status == status


def test_every_request_of_a_connection_may_have_a_head_of_its_own(server: Served) -> None:
    with Raw(server.port) as connection:
        for _ in range(5):
            answer = connection.ask(request("GET", "/health", None, f"X-Large: {'a' * 50_000}"))
            assert answer.status == 200


def test_requests_sent_at_once_are_answered_in_order(server: Served) -> None:
    with Raw(server.port) as connection:
        connection.send(request("GET", "/nowhere") + request() + request("GET", "/also-nowhere"))
        assert [connection.answer().status for _ in range(3)] == [404, 200, 404]


def test_a_head_that_comes_slowly_is_given_up(serve: Serve, clock: Clock) -> None:
    served = serve(receive_timeout_s=1)
    with Raw(served.port) as connection:
        connection.send(b"GET /health HTTP/1.1\r\nX-Slow: ")
        clock.run()
        assert trickle(connection, b"a" * 1000, 0.1, 30)
    clock.stand()
    with Raw(served.port) as connection:
        connection.send(b"GET /health HT")
        clock.run()
        assert connection.answer().status == 408
    assert metric(served, "echo_refusals_total", status="408", reason="slow_head") == 2


def test_a_trailer_without_an_end_is_cut_off(server: Served) -> None:
    head = request("POST", "/v1/audio/speech", None, "Transfer-Encoding: chunked")
    with Raw(server.port) as connection:
        connection.send(head + b"2\r\n{}\r\n0\r\nX-Trailer: ")
        connection.pour(b"a" * ENDLESS, 40)
        assert connection.closed()


def handshake(*lines: str, method: str = "GET", path: str = "/tts/v1/voice:streamBidirectional") -> bytes:
    key = base64.b64encode(os.urandom(16)).decode()
    upgrade = ("Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13")
    return request(method, path, None, *upgrade, *lines)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (handshake(), 101),
        (handshake(f"X-Long: {'a' * 8000}"), 101),
        (handshake(f"X-Long: {'a' * 9000}"), 431),
        (handshake(f"X-Long: {'a' * 70_000}"), 431),
        (handshake(*[f"X-{number}: a" for number in range(110)]), 431),
        (handshake(path="/tts/v1/voice:streamBidirectional?" + "a" * 9000), 414),
        (handshake(method="POST"), 400),
        (handshake("Content-Length: 5") + b"hello", 400),
        (handshake("Transfer-Encoding: chunked") + b"0\r\n\r\n", 400),
    ],
)
def test_the_handshake_of_a_socket_has_the_same_limits(server: Served, data: bytes, status: int) -> None:
    with Raw(server.port) as connection:
        connection.send(data)
        assert connection.answer().status == status


def test_a_refused_handshake_leaves_nothing_behind(server: Served) -> None:
    for _ in range(20):
        assert ask(server.port, handshake(method="POST")).status == 400
    wait_until(lambda: metric(server, "echo_connections") <= 1)  # that of the last is being closed


def test_bytes_that_are_no_http_are_answered(server: Served) -> None:
    with Raw(server.port) as connection:
        connection.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
        assert connection.answer().status == 400
        connection.pour(b"a" * ENDLESS, 40)
        assert connection.closed()
    assert ask(server.port, request()).status == 200


def test_an_upgrade_to_something_else_is_ignored(server: Served) -> None:
    upgrade = request("GET", "/health", None, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c")
    with Raw(server.port) as connection:
        assert connection.ask(upgrade).status == 200
        connection.pour(b"a" * ENDLESS, 100)
