"""Who a request is from: the one place that decides what counts as one client when there is not enough for all."""

from __future__ import annotations

import hashlib

from starlette.types import Scope

from server.address import network

_KEY = "client"


def address(scope: Scope) -> str:
    """Return what stands for the network address that a request came from.

    Behind a trusted proxy (``ECHO_TRUSTED_PROXIES``) the server has put the client's in place of the proxy's.
    """
    return network(scope.get("client"))


def identify(scope: Scope, key: bytes | None = None) -> str:
    """Remember, and return, who a request is from: the API key that was accepted, else the address."""
    client = address(scope) if key is None else "key " + hashlib.sha256(key).hexdigest()[:16]
    scope.setdefault("state", {})[_KEY] = client
    connection = scope["state"].get("connection")
    if connection is not None:
        connection.client = client
    return client


def of(scope: Scope) -> str:
    """Return who a request or socket is from."""
    known = scope.get("state", {}).get(_KEY)
    return known if isinstance(known, str) else address(scope)
