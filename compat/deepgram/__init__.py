"""Deepgram's socket for speech, as pipecat and livekit use it."""

from starlette.responses import JSONResponse, Response

from compat.deepgram.socket import PATH, router
from compat.wire import with_client_field_names
from echo.settings import Settings
from routes.errors import Failure
from routes.surface import Surface


def surface(settings: Settings) -> Surface:
    """Return the route and the shape of a refused handshake."""
    return Surface(router=router, error_shapes={PATH: _shape})


def _shape(failure: Failure) -> Response:
    message = with_client_field_names(failure.error, {"voice": "model"})
    headers = {**failure.headers, "dg-error": message.encode("ascii", "replace").decode()}
    return JSONResponse({"err_code": failure.error.code, "err_msg": message}, failure.status, headers=headers)
