"""The interface of XTTS servers, as Mantella, SillyTavern and SkyrimNet use it."""

from __future__ import annotations

from compat.xtts.errors import detail_shape
from compat.xtts.routes import router
from echo.settings import Settings
from routes.form import BESIDES_AUDIO
from routes.scopes import KeyScope
from routes.surface import Surface

_UPLOAD = "/create_and_store_latents"
_PATHS = (
    "/tts_to_audio",
    "/tts_stream",
    "/speakers_list",
    "/speakers",
    "/get_models_list",
    "/set_tts_settings",
    "/switch_model",
    _UPLOAD,
)


def surface(settings: Settings) -> Surface:
    """Return the routes, their error shape and the size limit of uploads."""
    return Surface(
        router=router,
        error_shapes=dict.fromkeys(_PATHS, detail_shape),
        body_limits={_UPLOAD: settings.inworld_max_sample_size + BESIDES_AUDIO},
        costly=("/tts_stream",),
        scopes={_UPLOAD: KeyScope.CLONE},
    )
