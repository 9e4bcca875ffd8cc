"""HEAD: what a GET would answer, without its body."""

from __future__ import annotations

from collections.abc import Collection

from starlette.types import ASGIApp, Receive, Scope, Send


class Head:
    """Answers HEAD like GET wherever a GET costs nothing; the HTTP server leaves the body out.

    ``costly`` are the paths where a GET speaks: there HEAD is not allowed.
    """

    def __init__(self, app: ASGIApp, costly: Collection[str]) -> None:
        self._app = app
        self._costly = costly

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a HEAD on as a GET."""
        if scope["type"] == "http" and scope["method"] == "HEAD" and scope["path"] not in self._costly:
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)
