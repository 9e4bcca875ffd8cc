"""The smallest complete wire format: ``POST /say`` takes JSON and answers with WAV, failures are plain text."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from compat.wire import with_client_field_names
from echo.settings import Settings
from echo.types import AudioFormat, Encoding, SpeechRequest, VoiceRef
from routes.deps import RuntimeDep, client_of
from routes.errors import Failure, validated
from routes.json import read_json
from routes.response import answer_streamed
from routes.surface import Surface

router = APIRouter(tags=["say"])


class SayBody(BaseModel):
    """The client's own field names; what it may send is checked here and nowhere else."""

    words: str
    speaker: str | None = None
    pace: Annotated[float, Field(ge=0.25, le=4)] = 1.0


@router.post("/say")
async def say(request: Request, runtime: RuntimeDep) -> Response:
    """Speak; the audio is sent as it is made."""
    body = validated(SayBody, await read_json(request))
    speech = SpeechRequest(
        text=body.words,
        voice=VoiceRef(name=body.speaker),
        format=AudioFormat(encoding=Encoding.WAV, unsized=True),
        speed=body.pace,
        client=client_of(request),
    )
    return await answer_streamed(request, runtime.service, speech)


def plain_text(failure: Failure) -> Response:
    """Write a failure below ``/say``."""
    message = with_client_field_names(failure.error, {"input": "words", "voice": "speaker", "speed": "pace"})
    return PlainTextResponse(message, failure.status, headers=failure.headers)


def surface(settings: Settings) -> Surface:
    """Return what the server mounts."""
    return Surface(router=router, error_shapes={"/say": plain_text})
