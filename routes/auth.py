"""API keys: required once any is configured, in any of the header forms that clients send."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hmac
from collections.abc import Collection, Iterator, Sequence

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from echo.errors import Unauthorized
from routes.client import address, identify
from routes.paths import longest_prefix
from routes.throttle import FailedKeys

#: Health checks and clients that look whether anybody is there carry no key.
_OPEN = frozenset({"/", "/health", "/ready"})
#: The files of the page at ``/``, on which a key can be entered.
_OPEN_BELOW = "/playground/"
#: Where the scope keeps the keys of which a socket still has to bring one.
_PENDING = "pending_keys"


class Auth:
    """Lets a request or socket pass if it carries one of the keys.

    An address that has tried ``max_failures`` wrong keys within a minute gets Overloaded (0: any number of tries).
    Without configured keys every request passes. The client is noted in the scope either way.

    ``late`` are paths, with all below them, where a socket may pass without a key in its headers: its route has to
    ``present`` one before it does anything for the client.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str], max_failures: int = 0, late: Collection[str] = ()) -> None:
        self._app = app
        self._keys = _Keys(keys, max_failures)
        self._late = dict.fromkeys(late, True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; raises Unauthorized or Overloaded."""
        if scope["type"] in ("http", "websocket"):
            key = None
            if self._keys and not _is_open(scope["path"]):
                given = list(offered(scope["headers"]))
                if given or scope["type"] == "http" or not longest_prefix(scope["path"], self._late, False):
                    key = self._keys.accepted(given, address(scope))
                else:
                    scope.setdefault("state", {})[_PENDING] = self._keys
            identify(scope, key)
        await self._app(scope, receive, send)


def _is_open(path: str) -> bool:
    return path in _OPEN or path.startswith(_OPEN_BELOW)


def needs_key(connection: HTTPConnection) -> bool:
    """Whether a socket has been let in without a key, although it needs one."""
    return _PENDING in connection.scope.get("state", {})


def present(connection: HTTPConnection, *keys: str) -> None:
    """Check the keys that a socket's client has brought in place of a header; raises Unauthorized or Overloaded.

    They are spelled as in a header, ``Bearer`` included or not. From then on the socket is that of the key's client.
    """
    pending = connection.scope.get("state", {}).get(_PENDING)
    if not isinstance(pending, _Keys):
        return
    headers = [(name, key.encode("utf-8", "surrogatepass")) for key in keys for name in (b"api-key", b"authorization")]
    accepted = pending.accepted(list(offered(headers)), address(connection.scope))
    del connection.scope["state"][_PENDING]
    identify(connection.scope, accepted)


class _Keys:
    """The configured keys, and how often an address has tried wrong ones."""

    def __init__(self, keys: Sequence[str], max_failures: int) -> None:
        self._keys = {spelling: key.encode() for key in keys for spelling in _spellings(key)}
        self._failed = FailedKeys(max_failures)

    def __bool__(self) -> bool:
        return bool(self._keys)

    def accepted(self, given: Sequence[bytes], where: str) -> bytes:
        """Return the key among those that somebody at an address gives; raises Unauthorized or Overloaded."""
        # Every pair is compared, in constant time each: how long it takes says nothing about the keys.
        matches = [key for one in given for spelling, key in self._keys.items() if hmac.compare_digest(one, spelling)]
        if matches and self._failed.open_to(where, matches[0]):
            self._failed.succeeded(where, matches[0])
            return matches[0]
        if given:
            self._failed.failed(where)
        raise Unauthorized(
            "A valid API key is needed, as `Authorization: Bearer <key>`, `Authorization: Basic <key>`, "
            "`Authorization: Token <key>`, `xi-api-key: <key>` or `api-key: <key>`."
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
        if scheme.lower() in (b"bearer", b"basic", b"token"):
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
