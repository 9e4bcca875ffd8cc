"""HEAD requests."""

from __future__ import annotations

from collections.abc import Collection

from starlette.types import ASGIApp, Receive, Scope, Send


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
