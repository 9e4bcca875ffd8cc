"""What surrounds every request: its id and log line, trailing slashes, the size of its body. Plain ASGI."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from echo.errors import TooLarge
from echo.settings import Settings
from routes.auth import Auth
from routes.errors import ErrorBoundary, ErrorShapes
from routes.paths import owner

log = logging.getLogger(__name__)

#: An id of the client's is taken over if it can neither break a header nor a log line.
_SANE_ID = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)


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
)


def surround(settings: Settings, shapes: ErrorShapes, body_limits: Mapping[str, int]) -> list[Middleware]:
    """Return everything around the routes, outermost first; errors of the inner ones take the path's shape."""
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
        cors,
        Middleware(ErrorBoundary, shapes=shapes),
        Middleware(Auth, keys=[key.get_secret_value() for key in settings.api_keys]),
        Middleware(BodyLimit, default=settings.max_body_bytes, limits=body_limits),
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
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex
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
            elif message["type"] == "http.response.body":
                ended = not message.get("more_body", False)
            await send(message)

        try:
            await self._app(scope, noticing, stamped)
        finally:
            end = "" if ended or scope["type"] == "websocket" else " client left" if gone else " broken off"
            milliseconds = (time.perf_counter() - started) * 1000
            method = scope.get("method", "WEBSOCKET")
            log.info("%s %s %d%s %.0f ms %s", method, _shown(scope), status, end, milliseconds, request_id)


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


class BodyLimit:
    """Refuses a body above the limit of its path: by its announced length, else while it is read."""

    def __init__(self, app: ASGIApp, default: int, limits: Mapping[str, int]) -> None:
        self._app = app
        self._default = default
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, counting its body; raises TooLarge."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = owner(scope["path"], self._limits, self._default)
        too_large = TooLarge(f"The body is too large: at most {limit} bytes are allowed.")
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > limit:
            raise too_large
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > limit:
                raise too_large
            return message

        await self._app(scope, counted, send)


def _shown(scope: Scope) -> str:
    # Still percent-encoded, so that a path cannot forge a log line; without the query, which may hold text.
    raw: bytes = scope.get("raw_path") or scope["path"].encode("ascii", "backslashreplace")
    return raw.partition(b"?")[0].decode("ascii", "backslashreplace")
