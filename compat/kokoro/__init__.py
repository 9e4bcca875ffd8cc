"""Kokoro-FastAPI's route for speech with the times of its words; its other routes are OpenAI's."""

from compat.kokoro.captioned import PATH, router
from echo.settings import Settings
from routes.surface import Surface


def surface(settings: Settings) -> Surface:
    """Return the route and the size limit of its body, which may hold a voice."""
    return Surface(router=router, body_limits={PATH: settings.max_body_bytes})
