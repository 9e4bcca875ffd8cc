"""Who a request is from: the one place that decides what counts as one client when there is not enough for all."""

from __future__ import annotations

from starlette.types import Scope

from server.address import network

_KEY = "client"
_KEY_NAME = "key_name"


def address(scope: Scope) -> str:
    """Return what stands for the network address that a request came from.

    Behind a trusted proxy (``ECHO_TRUSTED_PROXIES``) the server has put the client's in place of the proxy's.
    """
    return network(scope.get("client"))


def key_name(scope: Scope) -> str | None:
    """Return the name of the API key that a request was let in with, for the log."""
    name = scope.get("state", {}).get(_KEY_NAME)
    return name if isinstance(name, str) else None


def identify(scope: Scope, client: str | None = None, key_name: str | None = None) -> str:
    """Remember, and return, who a request is from: the client of the API key that was accepted, else the address."""
    client = address(scope) if client is None else client
    scope.setdefault("state", {})[_KEY] = client
    scope["state"][_KEY_NAME] = key_name
    connection = scope["state"].get("connection")
    if connection is not None:
        connection.client = client
    return client


def of(scope: Scope) -> str:
    """Return who a request or socket is from."""
    known = scope.get("state", {}).get(_KEY)
    return known if isinstance(known, str) else address(scope)
