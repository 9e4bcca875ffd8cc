"""Failures as the Chatterbox server reports them: ``{"detail": message}``, and texts for its sockets."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

from compat.wire import late_failure, with_client_field_names
from echo.errors import BadRequest, EchoError, VoiceNotFound
from routes.errors import Failure

_FIELDS = {"input": "text", "voice": "voice_id", "response_format": "output_format"}


class Detail(BaseModel):
    """The body of every failed request."""

    detail: str


#: For the API's description; ranges keep FastAPI from announcing its own 422, whose body is another.
DETAIL_RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"description": "The request was refused.", "model": Detail},
    "5XX": {"description": "The server failed, is loading or is shutting down.", "model": Detail},
}


class UnknownVoice(VoiceNotFound):
    """No voice of that id, in this server's own words."""

    def __init__(self, voice_id: str) -> None:
        super().__init__(voice_id)
        self.message = f"Voice not found: {voice_id}"


def detail_shape(failure: Failure) -> Response:
    """Write a failure of an HTTP route: 422 for what is wrong in the request, 404 for an unknown voice."""
    status = failure.status
    if isinstance(failure.error, VoiceNotFound):
        status = 404
    elif isinstance(failure.error, BadRequest):
        status = 422
    body = Detail(detail=_message(failure.error))
    return JSONResponse(body.model_dump(), status, headers=failure.headers)


def socket_text(error: Exception) -> str:
    """Return the message of a failure for a client on a socket; the details go to the log."""
    return _message(late_failure(error, "Chatterbox socket").error)


def _message(error: EchoError) -> str:
    return with_client_field_names(error, _FIELDS)
