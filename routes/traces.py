"""A span per request and socket, with the parent that its headers name."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from echo.tracing import Tracing, Value

#: Probes: several a minute from everybody who watches, and nothing in them to look at.
_PROBES = frozenset({"/health", "/ready", "/metrics"})


class Traces:
    """Traces requests, but for probes; inside of what gives them their id and their path its form.

    Neither query nor body gets into a span.
    """

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self._app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on within its span."""
        if scope["type"] not in ("http", "websocket") or scope["path"] in _PROBES:
            await self._app(scope, receive, send)
            return
        method = scope.get("method", "GET")
        attributes: dict[str, Value] = {
            "http.request.method": method,
            "url.path": scope["path"],
            "echo.request_id": scope["state"]["request_id"],
        }
        status, whole = 0, scope["type"] == "websocket"

        async def watched(message: Message) -> None:
            nonlocal status, whole
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                status = message["status"]
            elif message["type"] == "websocket.accept":
                status = 101
            elif message["type"] == "websocket.close" and not status:
                status = 403
            elif message["type"] == "http.response.body":
                whole = not message.get("more_body", False)
            await send(message)

        with self._tracing.request(method, Headers(scope=scope), attributes) as span:
            try:
                await self._app(scope, receive, watched)
            finally:
                if (route := scope.get("route")) is not None:  # set by the router; without a client's values in it
                    span.rename(f"{method} {route.path_format}")
                    span.set("http.route", route.path_format)
                if status:
                    span.set("http.response.status_code", status)
                if status >= 500:
                    span.fail()
                if not whole:
                    span.set("echo.broken_off", True)
