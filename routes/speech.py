"""POST /v1/audio/speech: OpenAI's body, the options of existing Echo clients -> SpeechRequest -> audio."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BeforeValidator, Field, StrictBool, StrictInt, StrictStr, ValidationError, WithJsonSchema
from pydantic_core import PydanticCustomError
from starlette.requests import Request
from starlette.responses import Response

from echo.audio.encode import supported_encodings
from echo.errors import BadRequest
from echo.options import EngineOptions, Number
from echo.service import SpeechStream
from echo.settings import Settings
from echo.types import Encoding, SpeechRequest, VoiceRef
from routes import sse
from routes.deps import RuntimeDep, client_of
from routes.errors import ERROR_RESPONSES, validation_error
from routes.format import SAMPLE_RATES, Delivery, SampleRate, Wish, decide
from routes.json import read_json
from routes.response import SpeechResponse, until_disconnect
from routes.surface import Surface

router = APIRouter(tags=["speech"])


def surface(settings: Settings) -> Surface:
    """Return the route and the size limit of its body, which may hold a voice."""
    return Surface(router=router, body_limits={"/v1/audio/speech": settings.max_body_bytes})


#: Seeds of torch and numpy generators go up to here.
_MAX_SEED = 2**63 - 1


def _voice_name(value: object) -> object:
    """OpenAI's object form ``{"id": ...}`` means the same as the bare string."""
    if not isinstance(value, dict):
        return value
    if not isinstance(value.get("id"), str):
        raise PydanticCustomError("voice_type", "an object needs a string under 'id'")
    return value["id"]


VoiceName = Annotated[
    StrictStr,
    BeforeValidator(_voice_name),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]},
            ]
        }
    ),
]


class SpeechBody(EngineOptions):
    """The JSON body. Unknown fields are ignored, null is the same as absent, known fields are type-checked.

    ``extra_body`` may hold any of the fields; what it holds wins.
    """

    input: StrictStr = Field(description="The text to speak.")
    model: StrictStr | None = Field(None, description="Any name. OpenAI's names switch on OpenAI's defaults.")
    voice: VoiceName | None = Field(
        None, description="A voice of GET /v1/voices, base64 of an audio file, or absent for the default voice."
    )
    response_format: StrictStr | None = Field(None, description="mp3, opus, aac, flac, wav or pcm.")
    speed: Annotated[Number, Field(ge=0.25, le=4)] | None = Field(None, description="1.0 is the voice's own pace.")
    instructions: Annotated[StrictStr, Field(max_length=4096)] | None = Field(
        None, description="Accepted and ignored: the model takes none."
    )
    stream_format: Literal["audio", "sse"] | None = Field(None, description="Raw audio or server-sent events.")
    stream: StrictBool | None = Field(None, description="Send audio as it is made.")
    seed: Annotated[StrictInt, Field(ge=-1, le=_MAX_SEED)] | None = Field(
        None, description="Repeats the audio; -1 or absent draws one."
    )
    sample_rate: SampleRate | None = Field(None, description="In Hz; also as a query parameter.")
    preset: StrictStr | None = Field(None, description="A preset by name, in place of the configured one.")
    wav_streaming: StrictBool | None = Field(
        None, description="Send wav progressively, with 0xFFFFFFFF in place of its sizes."
    )

    def wish(self, settings: Settings) -> Wish:
        """The fields that decide format and way of sending, with the operator's defaults."""
        return Wish(
            response_format=self.response_format,
            stream=self.stream,
            sse=self.stream_format == "sse",
            model=self.model,
            sample_rate=self.sample_rate,
            wav_streaming=settings.wav_streaming if self.wav_streaming is None else self.wav_streaming,
        )

    def request(self, delivery: Delivery, client: str = "") -> SpeechRequest:
        """What the service understands."""
        return SpeechRequest(
            text=self.input,
            voice=VoiceRef(name=self.voice),
            format=delivery.format,
            options=self.options(),
            preset=self.preset,
            seed=self.seed,
            speed=1.0 if self.speed is None else self.speed,
            streaming=delivery.streaming,
            client=client,
        )


def parse_body(body: object, sample_rate: str | None = None) -> SpeechBody:
    """Validate decoded JSON; ``sample_rate`` is the query's. Raises BadRequest naming the first field that is wrong."""
    if not isinstance(body, dict):
        raise BadRequest("The body must be a JSON object.", code="invalid_type")
    extra = body.pop("extra_body", None)
    if extra is not None and not isinstance(extra, dict):
        raise BadRequest("extra_body: must be an object.", param="extra_body", code="invalid_type")
    fields: dict[str, Any] = {**body, **(extra or {})}
    if sample_rate is not None:
        rate = _rate(sample_rate)
        if fields.get("sample_rate") is None:
            fields["sample_rate"] = rate
    try:
        return SpeechBody.model_validate(fields)
    except ValidationError as error:
        raise validation_error(error.errors(include_url=False, include_input=False)) from None


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
    settings = runtime.settings
    delivery = decide(body.wish(settings), pcm_sample_rate=settings.pcm_sample_rate, available=supported_encodings())
    speech = body.request(delivery, client_of(request))
    if delivery.whole:
        stream, audio = await until_disconnect(request, runtime.service.collect(speech))
        headers = {**_headers(stream, speech), **whole_headers(stream)}
        return Response(audio, headers=headers, media_type=stream.output.media_type)
    stream = await until_disconnect(request, runtime.service.open(speech))
    headers = _headers(stream, speech)
    if delivery.sse:
        return SpeechResponse(sse.SpeechEvents(stream, speech.text), media_type=sse.MEDIA_TYPE, headers=headers)
    return SpeechResponse(stream, media_type=stream.output.media_type, headers=headers)


def _headers(stream: SpeechStream, speech: SpeechRequest) -> dict[str, str]:
    headers = audio_headers(stream)
    headers["X-Speed-Applied"] = str(float(speech.speed))
    return headers


def audio_headers(stream: SpeechStream) -> dict[str, str]:
    """What every audio response says of its audio and of the seed that repeats it."""
    headers = {
        "X-Audio-Sample-Rate": str(stream.output.sample_rate),
        "X-Audio-Channels": "1",
        "X-Seed": str(stream.seed),
    }
    if stream.output.encoding is Encoding.PCM:
        headers["X-Audio-Format"] = "s16le"
    return headers


def whole_headers(stream: SpeechStream) -> dict[str, str]:
    """What an answer that is sent whole can say besides: it is finished."""
    return {
        **audio_headers(stream),
        "X-Rerolls": str(stream.stats.rerolls),
        "X-Audio-Duration": f"{stream.output.duration_s:.3f}",
    }


def _rate(text: str) -> int:
    rates = {str(rate): rate for rate in SAMPLE_RATES}
    if text not in rates:
        raise BadRequest(f"sample_rate: must be one of {', '.join(rates)}.", param="sample_rate")
    return rates[text]
