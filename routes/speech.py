"""POST /v1/audio/speech: OpenAI's body, the options of existing Echo clients -> SpeechRequest -> audio."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from echo.audio.encode import supported_encodings
from echo.settings import Settings
from echo.types import SAMPLE_RATES, SpeechRequest, VoiceRef
from routes import sse
from routes.body import SpeechBody, parse_body
from routes.deps import RuntimeDep, client_of
from routes.errors import ERROR_RESPONSES
from routes.format import OutputPlan, resolve_output
from routes.json import read_json
from routes.response import answer_streamed, answer_whole
from routes.surface import Surface

router = APIRouter(tags=["speech"])


def surface(settings: Settings) -> Surface:
    """Return the route and the size limit of its body, which may hold a voice."""
    return Surface(router=router, body_limits={"/v1/audio/speech": settings.max_body_bytes})


_SCHEMA = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": SpeechBody.model_json_schema()}},
    },
    "parameters": [
        {
            "name": "sample_rate",
            "in": "query",
            "required": False,
            "description": "The same as in the body.",
            "schema": {"type": "integer", "enum": list(SAMPLE_RATES)},
        }
    ],
}
_AUDIO = {"schema": {"type": "string", "format": "binary"}}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The audio, whole or streamed.",
        "content": {
            kind: _AUDIO
            for kind in (
                "audio/mpeg",
                "audio/opus",
                "audio/aac",
                "audio/flac",
                "audio/wav",
                "audio/pcm",
                sse.MEDIA_TYPE,
            )
        },
    },
    **ERROR_RESPONSES,
}


@router.post("/v1/audio/speech", response_class=Response, responses=_ANSWERS, openapi_extra=_SCHEMA)
async def create_speech(request: Request, runtime: RuntimeDep) -> Response:
    """Speak a text."""
    # Read by hand: curl announces JSON as a form unless told otherwise, and FastAPI would then refuse it.
    body = parse_body(await read_json(request), request.query_params.get("sample_rate"))
    plan = resolve_output(
        body,
        pcm_sample_rate=runtime.settings.pcm_sample_rate,
        wav_streaming=runtime.settings.wav_streaming,
        available=supported_encodings(),
    )
    speech = to_request(body, plan, client_of(request))
    service = runtime.services.of(body.model)
    headers = {"X-Speed-Applied": str(float(speech.speed))}
    if plan.whole:
        return await answer_whole(request, service, speech, headers=headers)
    if plan.sse:
        events = partial(sse.SpeechEvents, text=speech.text)
        return await answer_streamed(
            request, service, speech, headers=headers, media_type=sse.MEDIA_TYPE, envelope=events
        )
    return await answer_streamed(request, service, speech, headers=headers)


def to_request(body: SpeechBody, plan: OutputPlan, client: str = "") -> SpeechRequest:
    """Return the request for the service."""
    return SpeechRequest(
        text=body.input,
        voice=VoiceRef(name=body.voice),
        format=plan.format,
        options=body.options(),
        engine_options=body.others(),
        emotion=body.emotion(),
        preset=body.preset,
        seed=body.seed,
        speed=1.0 if body.speed is None else body.speed,
        streaming=plan.streaming,
        client=client,
    )
