"""The protocol of a WebSocket connection."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

from typing_extensions import override
from uvicorn import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

from echo.request_id import request_id

_ID = "X-Request-Id"


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's own, which the end of the server does not break, and whose refusals have an id."""

    def __init__(self, config: Config, *arguments: Any, **more: Any) -> None:
        super().__init__(config, *arguments, **more)
        # Without extensions: ``ws_per_message_deflate`` is off.
        self.conn = _Handshake(max_size=config.ws_max_size, logger=logging.getLogger("uvicorn.error"))

    @override
    def shutdown(self) -> None:
        """Close the connection because the server ends."""
        # A client that is leaving has been answered already. uvicorn answers it again, which raises, and then neither
        # the other connections nor the application would be closed.
        with contextlib.suppress(InvalidState):
            super().shutdown()


class _Handshake(ServerProtocol):
    _given: str | None = None

    @override
    def accept(self, request: Request) -> Response:
        self._given = next(iter(request.headers.get_all(_ID)), None)
        return super().accept(request)

    @override
    def send_response(self, response: Response) -> None:
        if _ID not in response.headers:  # the application has not been asked
            response.headers[_ID] = request_id(self._given)
        super().send_response(response)
