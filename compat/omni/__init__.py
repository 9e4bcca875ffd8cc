"""The routes that vLLM-Omni and SGLang-Omni share: speech of text while it is written, batches, voices by upload."""

from __future__ import annotations

from fastapi import APIRouter

from compat.omni import batch, voices
from compat.omni.socket import MAX_MESSAGE, PATH, Patience, socket_router
from echo.settings import Settings
from routes.form import BESIDES_AUDIO
from routes.scopes import KeyScope
from routes.surface import Surface


def surface(settings: Settings, *, patience: Patience | None = None) -> Surface:
    """Return the routes and the size limits of their bodies; failures have OpenAI's shape, as all of ``/v1``."""
    router = APIRouter()
    for part in (batch.router, voices.router, socket_router(patience or Patience())):
        router.include_router(part)
    return Surface(
        router=router,
        body_limits={
            "/v1/audio/speech/batch": settings.max_body_bytes,
            "/v1/audio/voices": voices.MAX_SAMPLE_BYTES + BESIDES_AUDIO,
        },
        scopes={"/v1/audio/voices": KeyScope.CLONE},
        message_limits={PATH: MAX_MESSAGE},
    )
