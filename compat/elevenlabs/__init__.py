"""ElevenLabs' HTTP and WebSocket interface, as pipecat, livekit and ElevenLabs' own SDK use it."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.websockets import WebSocket

from compat.elevenlabs import speak, voices
from compat.elevenlabs.dialogue import DialogueStream
from compat.elevenlabs.errors import detail_shape
from compat.elevenlabs.multi import MultiStream
from compat.elevenlabs.opening import accept
from compat.elevenlabs.single import SingleStream
from echo.settings import Settings
from routes.deps import RuntimeDep
from routes.surface import Surface

_SPEECH, _DIALOGUE = "/v1/text-to-speech", "/v1/text-to-dialogue"

sockets = APIRouter()


@sockets.websocket(_SPEECH + "/{voice_id}/multi-stream-input")
async def multi_stream_input(socket: WebSocket, voice_id: str, runtime: RuntimeDep) -> None:
    """Several turns, each in a context of its own."""
    if opening := await accept(socket, runtime, voice_id):
        await MultiStream(socket, opening.service, voice_id, opening.query).serve(opening)


@sockets.websocket(_SPEECH + "/{voice_id}/stream-input")
async def stream_input(socket: WebSocket, voice_id: str, runtime: RuntimeDep) -> None:
    """One text."""
    if opening := await accept(socket, runtime, voice_id):
        await SingleStream(socket, opening.service, voice_id, opening.query).serve(opening)


@sockets.websocket(_DIALOGUE + "/multi-stream-input")
async def dialogue_multi_stream_input(socket: WebSocket, runtime: RuntimeDep) -> None:
    """Several turns, each with a voice of its own."""
    if opening := await accept(socket, runtime, None):
        await DialogueStream(socket, opening.service, "", opening.query).serve(opening)


def surface(settings: Settings) -> Surface:
    """Return the routes, their error shape, and where a socket may bring its key late."""
    router = APIRouter()
    for part in (speak.router, voices.router, sockets):
        router.include_router(part)
    return Surface(
        router=router,
        error_shapes=dict.fromkeys((_SPEECH, _DIALOGUE, "/v2/voices"), detail_shape),
        late_keys=(_SPEECH, _DIALOGUE),
    )
