"""The middleware stack in order; request ids with a log line each, trailing slashes, HEAD. Plain ASGI."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from echo import request_id as ids
from echo.drain import Drain
from echo.quota import Quotas
from echo.settings import Settings
from echo.telemetry import Metrics
from echo.tracing import Tracing
from routes import client
from routes.auth import Auth
from routes.draining import LastAnswers, Refusing
from routes.errors import ErrorBoundary, ErrorShapes
from routes.keys import KeyRing
from routes.limits import BodyLimit, IncomingBytes, MessageLimit, SocketLimit, UnsentLimit
from routes.origin import Origins
from routes.ratelimits import RateLimitHeaders
from routes.scopes import ScopeRules
from routes.traces import Traces
from server.address import parse_networks

log = logging.getLogger(__name__)

#: What a script in a browser may read of an answer from another origin.
EXPOSED_HEADERS = (
    "X-Request-Id",
    "X-Audio-Sample-Rate",
    "X-Audio-Channels",
    "X-Audio-Format",
    "X-Audio-Duration",
    "X-Seed",
    "X-Speed-Applied",
    "X-Rerolls",
    "Retry-After",
    *(f"x-ratelimit-{part}-{what}" for what in ("requests", "characters") for part in ("limit", "remaining", "reset")),
    "x-ratelimit-limit-streams",
    "x-ratelimit-remaining-streams",
)


#: Largest body of a path that takes no audio, in bytes, besides its text.
_SMALL_BODY = 2**20
#: Largest message of a socket that takes no audio, in bytes.
_TEXT_MESSAGE = 2**20
#: ASGI's extension for an answer to a handshake.
_DENIAL = "websocket.http.response"
#: Bytes that a character takes at most, as JSON (an escaped pair of surrogates).
_CHAR_BYTES = 12


def middleware_stack(
    settings: Settings,
    metrics: Metrics,
    shapes: ErrorShapes,
    body_limits: Mapping[str, int],
    costly: Collection[str],
    late_keys: Collection[str] = (),
    message_limits: Mapping[str, int] | None = None,
    *,
    keys: KeyRing,
    rules: ScopeRules,
    quotas: Quotas,
    drain: Drain,
    ongoing: Collection[str] = (),
    tracing: Tracing | None = None,
) -> list[Middleware]:
    """Return the middleware, outermost first; what runs inside of ErrorBoundary fails in the path's error shape.

    ``body_limits`` are those of paths that take more than text, ``costly`` the paths where a GET speaks, ``late_keys``
    those where a socket may bring its key later, ``message_limits`` those where it takes messages that hold more than
    text, ``ongoing`` those that a server that drains still takes.
    """
    incoming = IncomingBytes(settings.max_incoming_bytes, settings.client_share, metrics)
    cors = Middleware(
        CORSMiddleware,
        allow_origins=settings.cors_origins,
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=EXPOSED_HEADERS,
    )
    return [
        Middleware(RequestLog),
        Middleware(TrailingSlash),
        Middleware(Head, costly=costly),
        *([Middleware(Traces, tracing=tracing)] if tracing is not None else []),
        cors,
        Middleware(LastAnswers, drain=drain),
        Middleware(RateLimitHeaders, quotas=quotas),
        Middleware(ErrorBoundary, shapes=shapes),
        Middleware(Origins, allowed=settings.cors_origins, host=settings.host, costly=costly),
        Middleware(Auth, keys=keys, rules=rules, late=late_keys, proxies=parse_networks(settings.trusted_proxies)),
        Middleware(Refusing, drain=drain, costly=costly, ongoing=ongoing),
        Middleware(SocketLimit, limit=settings.sockets_per_client),
        Middleware(MessageLimit, default=_TEXT_MESSAGE, limits=message_limits or {}, incoming=incoming),
        Middleware(UnsentLimit, limit=settings.max_unsent_bytes, share=settings.client_share, costly=costly),
        Middleware(
            BodyLimit,
            default=min(settings.max_body_bytes, _SMALL_BODY + _CHAR_BYTES * settings.max_input_chars),
            limits=body_limits,
            incoming=incoming,
            patience_s=settings.receive_timeout_s,
        ),
    ]


class RequestLog:
    """Gives every request an id (``scope["state"]["request_id"]``, X-Request-Id) and the log one line about it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Number the request, pass it on, log how it ended."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        request_id = ids.request_id(Headers(scope=scope).get("x-request-id"))
        scope.setdefault("state", {})["request_id"] = request_id
        started = time.perf_counter()
        status, ended, gone = 0, False, False

        async def noticing() -> Message:
            nonlocal gone
            message = await receive()
            gone = gone or (message["type"] == "http.disconnect" and not ended)
            return message

        async def stamped(message: Message) -> None:
            nonlocal status, ended
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            elif message["type"] == "websocket.accept":
                status = 101
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            elif message["type"] == "websocket.close" and not status and _DENIAL in scope.get("extensions", {}):
                # The HTTP server would answer with 403 too, but without the id.
                await stamped({"type": "websocket.http.response.start", "status": 403, "headers": []})
                message = {"type": "websocket.http.response.body", "body": b""}
            elif message["type"] == "http.response.body":
                ended = not message.get("more_body", False)
            await send(message)

        token = ids.current.set(request_id)
        try:
            await self._app(scope, noticing, stamped)
        finally:
            end = "" if ended or scope["type"] == "websocket" else " client left" if gone else " broken off"
            milliseconds = (time.perf_counter() - started) * 1000
            method = scope.get("method", "WEBSOCKET")
            key = f" key={name}" if (name := client.key_name(scope)) else ""
            log.info("%s %s %d%s %.0f ms %s%s", method, _shown(scope), status, end, milliseconds, request_id, key)
            ids.current.reset(token)


class TrailingSlash:
    """Makes ``/path/`` the same as ``/path``: a redirect would lose the body in some game clients."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on without its trailing slash."""
        path = scope.get("path", "")
        if path.endswith("/") and path != "/":
            scope = {**scope, "path": path.rstrip("/") or "/"}
            if scope.get("raw_path"):
                scope["raw_path"] = scope["raw_path"].rstrip(b"/") or b"/"
        await self._app(scope, receive, send)


class Head:
    """Turns HEAD into GET, but for the paths in ``costly``, where a GET speaks; the HTTP server omits the body."""

    def __init__(self, app: ASGIApp, costly: Collection[str]) -> None:
        self._app = app
        self._costly = costly

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, a HEAD as a GET."""
        if scope["type"] == "http" and scope["method"] == "HEAD" and scope["path"] not in self._costly:
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)


def _shown(scope: Scope) -> str:
    # Still percent-encoded, so that a path cannot forge a log line; without the query, which may hold text.
    raw: bytes = scope.get("raw_path") or scope["path"].encode("ascii", "backslashreplace")
    return raw.partition(b"?")[0].decode("ascii", "backslashreplace")
