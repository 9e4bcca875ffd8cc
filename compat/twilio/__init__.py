"""Twilio's Media Streams: the server speaks into a call, and an agent tells it what over HTTP or a socket."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.websockets import WebSocket

from compat.twilio.calls import Calls
from compat.twilio.line import Line
from compat.twilio.routes import agent_router
from echo.settings import Settings
from routes.deps import RuntimeDep
from routes.surface import Surface

_LINE = "/ws/twilio"
_CALLS = "/calls"


def surface(settings: Settings) -> Surface:
    """Return the routes. Twilio cannot send a key in a header, so it comes in its first message."""
    calls = Calls()
    router = APIRouter()
    router.include_router(agent_router(calls))

    @router.websocket(_LINE)
    async def line(socket: WebSocket, runtime: RuntimeDep) -> None:
        await socket.accept()
        await Line(socket, runtime, calls).serve()

    return Surface(router=router, late_keys=(_LINE,), ongoing=(_CALLS,))
