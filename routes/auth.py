"""API keys: off unless configured, then asked for in any of the forms that clients use."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Iterator, Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from echo.errors import Unauthorized

#: Health checks and clients that look whether anybody is there carry no key.
_OPEN = frozenset({"/", "/health", "/ready"})


class Auth:
    """Lets a request or socket pass that carries one of the keys; raises Unauthorized otherwise."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app = app
        self._keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what carries a key or needs none."""
        guarded = scope["type"] in ("http", "websocket") and scope["path"] not in _OPEN
        if self._keys and guarded and not self._allowed(Headers(scope=scope)):
            raise Unauthorized(
                "A valid API key is needed, as `Authorization: Bearer <key>`, `Authorization: Basic <key>`, "
                "`xi-api-key: <key>` or `api-key: <key>`."
            )
        await self._app(scope, receive, send)

    def _allowed(self, headers: Headers) -> bool:
        # Every pair is compared, in constant time each: how long it takes says nothing about the keys.
        matches = [hmac.compare_digest(given, key) for given in offered(headers) for key in self._keys]
        return any(matches)


def offered(headers: Headers) -> Iterator[bytes]:
    """Yield every key that the headers may mean.

    ``Basic`` carries the key itself (Inworld's clients), or base64 of it, or base64 of ``user:key``.
    """
    for name in ("xi-api-key", "api-key"):
        if name in headers:
            yield headers[name].encode()
    scheme, _, value = headers.get("authorization", "").partition(" ")
    value = value.strip()
    if scheme.lower() in ("bearer", "basic"):
        yield value.encode()
    if scheme.lower() == "basic":
        try:
            decoded = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            return
        yield decoded
        yield decoded.partition(b":")[2]
