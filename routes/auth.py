"""API keys: required once any is configured, in any of the header forms that clients send."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hmac
from collections.abc import Iterator, Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from echo.errors import Unauthorized
from routes.client import address, identify
from routes.throttle import FailedKeys

#: Health checks and clients that look whether anybody is there carry no key.
_OPEN = frozenset({"/", "/health", "/ready"})


class Auth:
    """Lets a request or socket pass if it carries one of the keys.

    An address that has tried ``max_failures`` wrong keys within a minute gets Overloaded (0: any number of tries).
    Without configured keys every request passes. The client is noted in the scope either way.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str], max_failures: int = 0) -> None:
        self._app = app
        self._keys = {spelling: key.encode() for key in keys for spelling in _spellings(key)}
        self._failed = FailedKeys(max_failures)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; raises Unauthorized or Overloaded."""
        if scope["type"] in ("http", "websocket"):
            guarded = self._keys and scope["path"] not in _OPEN
            identify(scope, self._key(scope) if guarded else None)
        await self._app(scope, receive, send)

    def _key(self, scope: Scope) -> bytes:
        given, where = list(offered(scope["headers"])), address(scope)
        # Every pair is compared, in constant time each: how long it takes says nothing about the keys.
        matches = [key for one in given for spelling, key in self._keys.items() if hmac.compare_digest(one, spelling)]
        if matches and self._failed.open_to(where, matches[0]):
            self._failed.succeeded(where, matches[0])
            return matches[0]
        if given:
            self._failed.failed(where)
        raise Unauthorized(
            "A valid API key is needed, as `Authorization: Bearer <key>`, `Authorization: Basic <key>`, "
            "`xi-api-key: <key>` or `api-key: <key>`."
        )


def offered(headers: Sequence[tuple[bytes, bytes]]) -> Iterator[bytes]:
    """Yield every key that the headers may mean, as bytes: nothing says how a client encodes a letter beyond ASCII.

    ``Basic`` carries the key itself (Inworld's clients), or base64 of it, or base64 of ``user:key``.
    """
    for name, header in headers:
        if name in (b"xi-api-key", b"api-key"):
            yield header
        if name != b"authorization":
            continue
        scheme, _, value = header.partition(b" ")
        value = value.strip()
        if scheme.lower() in (b"bearer", b"basic"):
            yield value
        if scheme.lower() == b"basic":
            with contextlib.suppress(binascii.Error, ValueError):
                decoded = base64.b64decode(value, validate=True)
                yield decoded
                yield decoded.partition(b":")[2]


def _spellings(key: str) -> Iterator[bytes]:
    """The bytes that a client may send for a key: UTF-8, or Latin-1 as older HTTP libraries and browsers do."""
    yield key.encode()
    with contextlib.suppress(UnicodeEncodeError):
        yield key.encode("latin-1")
