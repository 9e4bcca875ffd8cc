"""Which web pages may use this server: any page that a user visits can send requests to their loopback address."""

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
    """Refuses cross-origin requests, unless the origin is one of ``allowed`` (``*`` = any).

    This holds for every socket, and for every request that changes something or costs time on the device: all methods
    that write, and GET on the paths in ``costly``. Clients other than browsers send no Origin and are let through.

    While the server listens on loopback (``host``), the Host header must be a name that the public DNS cannot point at
    this machine. Otherwise a foreign page could pass for one of this server's own (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, allowed: Collection[str], host: str, costly: Collection[str]) -> None:
        self._app = app
        self._any = "*" in allowed
        self._allowed = {_normal(origin) for origin in allowed}
        self._hosts = {host_name(urlsplit(origin).netloc or origin) for origin in allowed} | {host.lower()}
        self._local = is_loopback(host)
        self._costly = costly

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; raises Forbidden."""
        if scope["type"] in ("http", "websocket") and not self._any:
            headers = Headers(scope=scope)
            if self._local and not self._is_local(host_name(headers.get("host", ""))):
                raise Forbidden(
                    "This server listens on loopback and does not accept this Host. Add the origin of its pages to "
                    "ECHO_CORS_ORIGINS.",
                    code="host_not_allowed",
                )
            if costs(scope, self._costly) and self._is_foreign(headers):
                raise Forbidden(
                    "Pages of this origin may not use this server. ECHO_CORS_ORIGINS lists those that may.",
                    code="origin_not_allowed",
                )
        await self._app(scope, receive, send)

    def _is_foreign(self, headers: Headers) -> bool:
        origin = headers.get("origin")
        if origin is None:
            # Images and players send no Origin, but browsers mark their requests to another site.
            if headers.get("sec-fetch-site") != "cross-site":
                return False
            origin = headers.get("referer", "")
        normal = _normal(origin)
        if normal in self._allowed:
            return False
        scheme, _, here = normal.partition("://")
        return not here or here != _without_port(headers.get("host", ""), scheme)

    def _is_local(self, name: str) -> bool:
        # The public DNS has no names without a dot and none in ``internal`` (used by Docker and Podman).
        return "." not in name or name in self._hosts or name.endswith((".localhost", ".internal")) or _is_address(name)


def is_loopback(host: str) -> bool:
    """Whether a server that listens on ``host`` can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _normal(origin: str) -> str:
    """Return an origin in lower case, without its path and without the scheme's default port.

    An origin without a host (``null``, ``file://``) stays as it is and matches only itself.
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


def host_name(netloc: str) -> str:
    """Return the host of ``host:port``, in lower case and without a final dot."""
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
