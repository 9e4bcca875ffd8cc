"""Inworld's HTTP and WebSocket interface, as pipecat, livekit, SkyrimNet and Inworld's own samples use it."""

from __future__ import annotations

from fastapi import APIRouter

from compat.inworld import synth, voices
from compat.inworld.errors import rpc_shape
from compat.inworld.socket import IDLE_S, socket_router
from echo.settings import Settings
from routes.form import BESIDES_AUDIO
from routes.scopes import KeyScope
from routes.surface import Surface


def surface(settings: Settings, *, socket_idle_s: float = IDLE_S) -> Surface:
    """Return the routes, their error shape and the size limit of uploads."""
    router = APIRouter()
    for part in (synth.router, voices.router, socket_router(socket_idle_s)):
        router.include_router(part)
    # Base64 takes a third more than the audio, with its line breaks another 3 %.
    upload = settings.inworld_max_sample_size * 4 // 3 * 33 // 32 + BESIDES_AUDIO
    return Surface(
        router=router,
        error_shapes={"/tts/v1": rpc_shape, "/voices/v1": rpc_shape},
        scopes={"/voices/v1": KeyScope.CLONE},
        body_limits={"/voices/v1/voices:clone": upload, "/voices/v1/workspaces": upload},
    )
