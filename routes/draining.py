"""What a server that drains does with requests: it ends connections with their answers, then it refuses new work."""

from __future__ import annotations

from collections.abc import Collection

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from echo.drain import Drain
from echo.errors import NotReady
from routes.paths import costs, longest_prefix

_KEY = "drain"
#: Seconds after which a refused client may try again; by then a balancer sends it elsewhere.
_RETRY_S = 5.0


def drain_of(scope: Scope) -> Drain | None:
    """Return the drain of the server that a socket is connected to; None where there is no server."""
    drain = scope.get("state", {}).get(_KEY)
    return drain if isinstance(drain, Drain) else None


class LastAnswers:
    """Ends each connection with its answer once the server drains, so that the client's next one may go elsewhere."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""

        async def ending(message: Message) -> None:
            if message["type"] == "http.response.start" and self._drain.begun:
                MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        await self._app(scope, receive, ending if scope["type"] == "http" else send)


class Refusing:
    """Refuses sockets and requests that cost something once the server takes nothing new.

    ``costly`` are the paths where a GET speaks, ``ongoing`` path prefixes of requests that belong to something open.
    """

    def __init__(self, app: ASGIApp, drain: Drain, costly: Collection[str], ongoing: Collection[str]) -> None:
        self._app = app
        self._drain = drain
        self._costly = costly
        self._ongoing = dict.fromkeys(ongoing, True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, a socket with the drain; raises NotReady."""
        if scope["type"] == "websocket":
            scope.setdefault("state", {})[_KEY] = self._drain
        if (
            scope["type"] in ("http", "websocket")
            and self._drain.refusing
            and costs(scope, self._costly)
            and not longest_prefix(scope["path"], self._ongoing, False)
        ):
            raise NotReady("The server is shutting down.", retry_after_s=_RETRY_S)
        await self._app(scope, receive, send)
