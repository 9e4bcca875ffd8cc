"""Keys: beyond ASCII, and how often a wrong one may be tried."""

from __future__ import annotations

import base64
import logging

import pytest
from websockets.sync.client import connect

from server.serve import worth_a_line
from tests.attack.raw import ask, request
from tests.contract.inworld.calls import SOCKET_PATH
from tests.contract.serving import PATIENCE_S, Serve, Served

KEY = "clé-ключ-鍵"
LATIN = "clé-ü"


def lists(served: Served, *lines: str) -> int:
    return ask(served.port, request("GET", "/v1/voices", None, *lines)).status


def test_a_key_may_have_any_letters(serve: Serve) -> None:
    served = serve(api_keys=(KEY, LATIN), max_failed_keys=0)
    for key in (KEY, LATIN):
        encoded = base64.b64encode(key.encode()).decode()
        for line in (f"Authorization: Bearer {key}", f"xi-api-key: {key}", f"Authorization: Basic {encoded}"):
            assert lists(served, line) == 200
    data = request("GET", "/v1/voices", None, "api-key: KEY").replace(b"KEY", LATIN.encode("latin-1"))
    assert ask(served.port, data).status == 200


@pytest.mark.parametrize("key", [b"cl\xe9", b"\xff\xfe", "ключ".encode(), b"Basic \xff", b"\x80" * 5000])
def test_a_wrong_key_of_any_bytes_is_401(serve: Serve, key: bytes) -> None:
    served = serve(api_keys=(KEY,), max_failed_keys=0)
    for name in (b"Authorization: Bearer ", b"Authorization: Basic ", b"xi-api-key: "):
        head = request("GET", "/v1/voices", None, "X-Key: KEY").replace(b"X-Key: KEY", name + key)
        assert ask(served.port, head).status == 401


def test_whoever_guesses_is_slowed_down(serve: Serve) -> None:
    served = serve(api_keys=("right", "also-right"), max_failed_keys=5)
    assert lists(served, "Authorization: Bearer right") == 200
    assert [lists(served, f"Authorization: Bearer {number}") for number in range(8)] == [401] * 5 + [429] * 3
    refused = ask(served.port, request("GET", "/v1/voices", None, "Authorization: Bearer 9"))
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    # Not even a right one is looked at, but one that has worked from here is.
    assert lists(served, "Authorization: Bearer also-right") == 429
    assert lists(served, "Authorization: Bearer right") == 200
    assert lists(served) == 401
    assert ask(served.port, request()).status == 200


def test_a_key_in_the_query_of_a_socket_is_not_in_the_log(server: Served, caplog: pytest.LogCaptureFixture) -> None:
    url = f"{server.ws_url}{SOCKET_PATH}?key=secret"
    with caplog.at_level(logging.DEBUG), connect(url, open_timeout=PATIENCE_S):
        pass
    records = [record for record in caplog.records if record.levelno > logging.DEBUG and worth_a_line(record)]
    assert not [record.getMessage() for record in records if "secret" in record.getMessage()]
