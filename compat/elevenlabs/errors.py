"""Failures as ElevenLabs tells them: ``{"detail": {"status", "message"}}``, and messages of a socket."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

from compat.wire import late_failure, with_client_field_names
from echo.errors import BadRequest, Overloaded, VoiceNotFound
from routes.errors import Failure

#: Close codes of RFC 6455, 7.4.1.
POLICY_VIOLATION, INTERNAL_ERROR = 1008, 1011

_FIELDS = {
    "input": "text",
    "voice": "voice_id",
    "response_format": "output_format",
    "speed": "voice_settings.speed",
}
#: Reasons that have another name at ElevenLabs.
_STATUS = {
    "queue_full": "system_busy",
    "too_many_sockets": "too_many_concurrent_requests",
    "too_many_streams": "too_many_concurrent_requests",
    "insufficient_scope": "missing_permissions",
}


class Detail(BaseModel):
    """What went wrong."""

    status: str
    message: str


class DetailBody(BaseModel):
    """The body of every failed request."""

    detail: Detail


#: For the API's description; ranges keep FastAPI from announcing its own 422, which is never sent.
DETAIL_RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"description": "The request was refused.", "model": DetailBody},
    "5XX": {"description": "The server failed, is loading or is shutting down.", "model": DetailBody},
}


class TooManyContexts(Overloaded):
    """A socket has as many contexts as it may."""

    code = "max_active_conversations"


class LateSettings(BadRequest):
    """Settings that only the first message of a context may hold."""

    code = "settings_not_allowed"


class Idle(BadRequest):
    """A socket on which the client has not sent anything for too long."""

    code = "input_timeout_exceeded"


def detail_shape(failure: Failure) -> Response:
    """Write a failure of an HTTP route or of a handshake; an unknown voice is 404 here."""
    status = 404 if isinstance(failure.error, VoiceNotFound) else failure.status
    return JSONResponse(DetailBody(detail=_detail(failure)).model_dump(), status, headers=failure.headers)


def error_message(error: Exception) -> dict[str, object]:
    """Return a failure as a message of a socket, without the context's id; its details go to the log."""
    failure = late_failure(error, "ElevenLabs socket")
    detail = _detail(failure)
    code = POLICY_VIOLATION if failure.status < 500 else INTERNAL_ERROR
    return {"error": detail.status, "message": detail.message, "code": code}


def _detail(failure: Failure) -> Detail:
    code = failure.error.code or "error"
    return Detail(status=_STATUS.get(code, code), message=with_client_field_names(failure.error, _FIELDS))
