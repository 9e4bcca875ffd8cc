"""What a route learns of a connection."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.requests import HTTPConnection

from routes.deps import client_of


@pytest.mark.parametrize(
    ("scope", "client"),
    [
        ({"client": ("192.0.2.7", 4711)}, "192.0.2.7"),
        ({"client": ("192.0.2.7", 4711), "state": {"client": "key 1"}}, "key 1"),
        ({"client": ("192.0.2.7", 4711), "state": {"request_id": "x"}}, "192.0.2.7"),
        ({"client": None}, ""),  # a socket of the file system
    ],
)
def test_a_client_is_what_the_middleware_says_else_its_address(scope: dict[str, Any], client: str) -> None:
    assert client_of(HTTPConnection({"type": "http", "headers": [], **scope})) == client
