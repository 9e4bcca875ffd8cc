"""Failures as google.rpc.Status: the body of an HTTP error, an ``error`` line, or a context's ``status``."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

from compat.wire import late_failure, with_client_field_names
from echo.errors import NotFound, Overloaded, VoiceNotFound
from routes.errors import Failure

#: HTTP status -> google.rpc.Code (google/rpc/code.proto).
_CODES = {400: 3, 401: 16, 403: 7, 404: 5, 405: 12, 413: 3, 429: 8, 500: 13, 503: 14}
_INTERNAL = 13
#: Fields of a speech request -> their names in Inworld's API.
_FIELDS = {
    "input": "text",
    "voice": "voiceId",
    "response_format": "audioConfig.audioEncoding",
    "sample_rate": "audioConfig.sampleRateHertz",
    "bit_rate": "audioConfig.bitRate",
    "speed": "audioConfig.speakingRate",
}


class RpcStatus(BaseModel):
    """The body of every failed request: google.rpc.Status."""

    code: int
    message: str
    details: list[object] = []


#: For the API's description; ranges keep FastAPI from announcing its own 422, which is never sent.
RPC_RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"description": "The request was refused.", "model": RpcStatus},
    "5XX": {"description": "The server failed, is loading or is shutting down.", "model": RpcStatus},
}


class UnknownContext(NotFound):
    """A socket message names no open context; pipecat ignores it if the message says "not found"."""


class Exhausted(Overloaded):
    """A socket has reached its limit of open contexts or of waiting text."""


def rpc_shape(failure: Failure) -> Response:
    """Write a failure of an Inworld route. Unlike OpenAI's clients, Inworld's expect 404 for an unknown voice."""
    status = 404 if isinstance(failure.error, VoiceNotFound) else failure.status
    return JSONResponse(rpc_status(failure), status, headers=failure.headers)


def rpc_status(failure: Failure) -> dict[str, object]:
    """Return the google.rpc.Status of a failure."""
    error = failure.error
    status = 404 if isinstance(error, VoiceNotFound) else failure.status
    code = _CODES.get(status, _INTERNAL)
    return RpcStatus(code=code, message=with_client_field_names(error, _FIELDS)).model_dump()


def late_status(error: Exception, doing: str) -> dict[str, object]:
    """Return the status of a failure after the answer has begun; its details go to the log."""
    return rpc_status(late_failure(error, doing))
