"""Browsers: which pages may use this server. A page that a user happens to visit reaches their loopback too."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from echo.errors import Forbidden
from routes.paths import costs

_DEFAULT_PORTS = {"http": "80", "https": "443", "ws": "80", "wss": "443"}


class Origins:
    """Refuses what a page of another origin asks for, unless its origin is one of ``allowed`` (``*`` = any).

    That is: every socket, and every request that changes something or costs time on the device. ``costly`` are the
    paths where a mere GET does. Whoever is no browser sends no Origin and is not concerned.

    While the server listens on loopback (``host``), the Host of a request must be a name that nobody out there can
    point at it: else the page of another host passes for one of this server's own (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, allowed: Collection[str], host: str, costly: Collection[str]) -> None:
        self._app = app
        self._any = "*" in allowed
        self._allowed = {_normal(origin) for origin in allowed}
        self._hosts = {_name(urlsplit(origin).netloc or origin) for origin in allowed} | {host.lower()}
        self._local = is_loopback(host)
        self._costly = costly

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; raises Forbidden."""
        if scope["type"] in ("http", "websocket") and not self._any:
            headers = Headers(scope=scope)
            if self._local and not self._is_local(_name(headers.get("host", ""))):
                raise Forbidden(
                    "This server listens on loopback and does not go by this Host. To serve pages of another host, "
                    "name them in ECHO_CORS_ORIGINS.",
                    code="host_not_allowed",
                )
            if costs(scope, self._costly) and self._is_foreign(headers):
                raise Forbidden(
                    "Pages of this origin may not use this server. ECHO_CORS_ORIGINS names those that may.",
                    code="origin_not_allowed",
                )
        await self._app(scope, receive, send)

    def _is_foreign(self, headers: Headers) -> bool:
        origin = headers.get("origin")
        if origin is None:
            # Browsers name no origin when an image or a player loads something, but say that it is another site's.
            if headers.get("sec-fetch-site") != "cross-site":
                return False
            origin = headers.get("referer", "")
        normal = _normal(origin)
        if normal in self._allowed:
            return False
        scheme, _, here = normal.partition("://")
        return not here or here != _without_port(headers.get("host", ""), scheme)

    def _is_local(self, name: str) -> bool:
        # Names without a dot and below ``internal`` (Docker's, Podman's) are nobody's in the public DNS.
        return "." not in name or name in self._hosts or name.endswith((".localhost", ".internal")) or _is_address(name)


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches what listens there."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _normal(origin: str) -> str:
    """Return scheme, host and port of an address, the port only where it is not the scheme's own.

    What has no host (``null``, ``file://``) stays as it is: it is nobody's unless it is allowed by that name.
    """
    origin = origin.strip().lower()
    try:
        parts = urlsplit(origin)
    except ValueError:
        return origin
    return f"{parts.scheme}://{_without_port(parts.netloc, parts.scheme)}" if parts.netloc else origin


def _without_port(netloc: str, scheme: str) -> str:
    port = _DEFAULT_PORTS.get(scheme, "")
    return netloc.lower().removesuffix(f":{port}") if port else netloc.lower()


def _name(netloc: str) -> str:
    """Return the host of ``host:port``, in lower case and without the dot that may end it."""
    host = netloc.lower()
    if not host.startswith("["):
        return host.partition(":")[0].removesuffix(".")
    return host.partition("]")[0].removeprefix("[")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
