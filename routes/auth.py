"""API keys: required once any is configured, in any of the header forms that clients send."""

from __future__ import annotations

import base64
import binascii
import contextlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from echo.errors import Forbidden
from routes.client import address, identify
from routes.keys import KeyRing, check_scope
from routes.local import is_from_here
from routes.paths import longest_prefix
from routes.scopes import KeyScope, ScopeRules
from server.address import Network

#: Where the scope keeps the keys of which a socket still has to bring one.
_PENDING = "pending_keys"


@dataclass(frozen=True, slots=True)
class _Pending:
    keys: KeyRing
    needed: frozenset[KeyScope]


class Auth:
    """Lets a request or socket pass if it carries a key that may do what it asks for (``rules``).

    An address that has tried too many wrong keys gets Overloaded. Without configured keys every request passes, but
    for what needs the scope admin: that has to come from this machine, with a key or without; ``proxies`` are those
    that it may come through. The client is noted in the scope.

    ``late`` are paths, with all below them, where a socket may pass without a key in its headers: its route has to
    ``present`` one before it does anything for the client.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: KeyRing,
        rules: ScopeRules,
        late: Collection[str] = (),
        proxies: Sequence[Network] = (),
    ) -> None:
        self._app = app
        self._keys = keys
        self._rules = rules
        self._late = dict.fromkeys(late, True)
        self._proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; raises Unauthorized, Forbidden or Overloaded."""
        if scope["type"] in ("http", "websocket"):
            self._check(scope)
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        needed = self._rules.needed(scope)
        identify(scope)
        if not needed or (KeyScope.ADMIN in needed and is_from_here(scope, self._proxies)):
            return
        if not self._keys:
            if KeyScope.ADMIN in needed:
                raise Forbidden("This is answered on the server's own machine only, or with a key of scope `admin`.")
            return
        given = list(offered(scope["headers"]))
        if not given and scope["type"] == "websocket" and longest_prefix(scope["path"], self._late, False):
            scope["state"][_PENDING] = _Pending(self._keys, needed)
            return
        key = self._keys.accepted(given, address(scope))
        identify(scope, key.client, key.name)
        check_scope(key, needed)
        if needed == {KeyScope.CLONE}:  # speech is counted where it is spoken
            self._keys.charge(key)


def needs_key(connection: HTTPConnection) -> bool:
    """Whether a socket has been let in without a key, although it needs one."""
    return _PENDING in connection.scope.get("state", {})


def present(connection: HTTPConnection, *keys: str) -> None:
    """Check the keys that a socket's client has brought in place of a header.

    They are spelled as in a header, ``Bearer`` included or not. From then on the socket is that of the key's client.
    Raises Unauthorized, Forbidden or Overloaded.
    """
    pending = connection.scope.get("state", {}).get(_PENDING)
    if not isinstance(pending, _Pending):
        return
    headers = [(name, key.encode("utf-8", "surrogatepass")) for key in keys for name in (b"api-key", b"authorization")]
    accepted = pending.keys.accepted(list(offered(headers)), address(connection.scope))
    check_scope(accepted, pending.needed)
    del connection.scope["state"][_PENDING]
    identify(connection.scope, accepted.client, accepted.name)


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
