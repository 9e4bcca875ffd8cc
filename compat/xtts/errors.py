"""Failures as XTTS servers report them: ``{"detail": message}``."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

from compat.wire import with_client_field_names
from echo.errors import VoiceNotFound
from routes.errors import Failure


class Detail(BaseModel):
    """The body of every failed request."""

    detail: str


#: For the API's description; ranges keep FastAPI from announcing its own 422, which is never sent.
DETAIL_RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"description": "The request was refused.", "model": Detail},
    "5XX": {"description": "The server failed, is loading or is shutting down.", "model": Detail},
}
_FIELDS = {"input": "text", "voice": "speaker_wav"}


def detail_shape(failure: Failure) -> Response:
    """Write a failure of an XTTS route; an unknown voice is 404 here."""
    status = 404 if isinstance(failure.error, VoiceNotFound) else failure.status
    body = Detail(detail=with_client_field_names(failure.error, _FIELDS))
    return JSONResponse(body.model_dump(), status, headers=failure.headers)
