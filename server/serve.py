"""The HTTP server's configuration, with every connection behind a gate."""

from __future__ import annotations

import logging
import math
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from echo.settings import Settings
from echo.telemetry import Metrics
from server.connections import Connections
from server.gate import Gate
from server.limits import connection_limits
from server.websocket import WebSocketProtocol

#: Largest message on any socket, in bytes; most paths take less (``routes.limits.MessageLimit``).
MAX_MESSAGE = 4 * 2**20
#: Longest wait for the answer to a ping, in seconds. A client that reads no faster than it plays sees the ping behind
#: all audio that is on its way: up to some minutes of it. Who reads nothing is noticed sooner
#: (``ConnectionLimits.send_s``).
PING_TIMEOUT_S = 300.0


def configure(app: ASGIApp, settings: Settings, metrics: Metrics, **more: Any) -> uvicorn.Config:
    """Return uvicorn's configuration; ``more`` are further options of uvicorn."""
    connections = Connections(connection_limits(settings), metrics)
    options: dict[str, Any] = {
        "http": connections.protocol,
        "ws": WebSocketProtocol,
        "log_config": None,
        "timeout_keep_alive": math.ceil(settings.keep_alive_s),
        "timeout_graceful_shutdown": math.ceil(settings.shutdown_grace_s),
        "proxy_headers": bool(settings.trusted_proxies),
        "forwarded_allow_ips": list(settings.trusted_proxies),
        "ws_per_message_deflate": False,  # base64 audio does not shrink enough to pay for the event loop's time
        "ws_max_size": MAX_MESSAGE,
        "ws_ping_timeout": PING_TIMEOUT_S,
    }
    return uvicorn.Config(Reporting(app), settings.host, settings.port, **(options | more))


def worth_a_line(record: logging.LogRecord) -> bool:
    """Whether a line of uvicorn's belongs in the log; removes the traceback of lines about what a client sent."""
    message = record.getMessage()
    if message.startswith("Invalid UTF-8"):
        record.exc_info = record.exc_text = None
    # A response that broke off has been logged with its reason already; a socket's handshake too, without its query,
    # which may hold a key.
    return "without completing" not in message and '"WebSocket ' not in message


class Reporting:
    """Tells a connection's gate when a request has ended and when the application has read a message."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        gate = scope.get("state", {}).get("connection")
        if not isinstance(gate, Gate):
            await self._app(scope, receive, send)
            return

        async def taking() -> Message:
            message = await receive()
            gate.message_taken()
            return message

        try:
            await self._app(scope, taking if scope["type"] == "websocket" else receive, send)
        finally:
            gate.request_finished()
