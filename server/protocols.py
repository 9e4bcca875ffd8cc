"""The HTTP server's protocols, with an id in the answers that they give by themselves."""

from __future__ import annotations

import logging
from typing import Any

from typing_extensions import override
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

from echo.request_id import request_id
from server.framing import Refusal
from server.gate import Gate

_HEADER = "X-Request-Id"


class RequestProtocol(HttpToolsProtocol):
    """Answers what is no HTTP like every other refusal."""

    @override
    def send_400_response(self, msg: str) -> None:
        gate: Gate = self.app_state["connection"]
        # Known where the head could be read and the body cannot.
        known = self.scope.get("state", {}).get("request_id") if hasattr(self, "scope") else None
        self.transport.write(gate.answer_to(Refusal(400, "invalid_http", msg), known))
        self.transport.close()


class SocketProtocol(WebSocketsSansIOProtocol):
    """Opens sockets, and refuses what is no handshake."""

    def __init__(self, config: Config, *arguments: Any, **more: Any) -> None:
        super().__init__(config, *arguments, **more)
        # Without extensions: ``ws_per_message_deflate`` is off.
        self.conn = _Handshake(max_size=config.ws_max_size, logger=logging.getLogger("uvicorn.error"))


class _Handshake(ServerProtocol):
    _given: str | None = None

    @override
    def accept(self, request: Request) -> Response:
        self._given = next(iter(request.headers.get_all(_HEADER)), None)
        return super().accept(request)

    @override
    def send_response(self, response: Response) -> None:
        if _HEADER not in response.headers:  # the application has not been asked
            response.headers[_HEADER] = request_id(self._given)
        super().send_response(response)
