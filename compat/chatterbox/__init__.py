"""The interface of the Chatterbox streaming server, as telephone and voice-agent clients of it use it."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.websockets import WebSocket

from compat.chatterbox import routes
from compat.chatterbox.errors import detail_shape
from compat.chatterbox.requests import RequestSocket
from compat.chatterbox.turns import TurnSocket
from echo.settings import Settings
from routes.deps import RuntimeDep
from routes.surface import Surface

#: Seconds without a message and without speech after which a connection is closed, as Inworld's.
IDLE_S = 600.0


def surface(settings: Settings, *, idle_s: float = IDLE_S) -> Surface:
    """Return the routes and their error shape."""
    router = APIRouter()
    router.include_router(routes.router)

    @router.websocket("/ws/synthesize")
    async def synthesize(socket: WebSocket, runtime: RuntimeDep) -> None:
        await socket.accept()
        await RequestSocket(socket, runtime, idle_s).serve()

    @router.websocket("/ws/synthesize-stream")
    async def synthesize_stream(socket: WebSocket, runtime: RuntimeDep) -> None:
        await socket.accept()
        await TurnSocket(socket, runtime, idle_s).serve()

    return Surface(router=router, error_shapes=dict.fromkeys(("/synthesize", "/preload", "/warmup"), detail_shape))
