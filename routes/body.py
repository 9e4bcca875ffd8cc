"""The JSON body of POST /v1/audio/speech: OpenAI's fields and the options of existing Echo clients."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictBool, StrictInt, StrictStr, WithJsonSchema
from pydantic_core import PydanticCustomError

from echo.errors import BadRequest
from echo.options import EmotionOptions, EngineOptions, Number
from echo.types import SAMPLE_RATES, SampleRate
from routes.errors import validated

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


class SpeechBody(EngineOptions, EmotionOptions):
    """The JSON body. Unknown fields are ignored, null is the same as absent, known fields are type-checked.

    ``extra_body`` may hold any of the fields; what it holds wins.
    """

    input: StrictStr = Field(description="The text to speak.")
    model: StrictStr | None = Field(
        None,
        description="A model of GET /v1/models picks the engine, any other name the default one. OpenAI's names switch "
        "on OpenAI's defaults.",
    )
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


def parse_body(body: object, sample_rate: str | None = None) -> SpeechBody:
    """Validate decoded JSON; ``sample_rate`` is the query's. Raises BadRequest naming the first field that is wrong."""
    fields = flattened(body)
    if sample_rate is not None:
        rate = _rate(sample_rate)
        if fields.get("sample_rate") is None:
            fields["sample_rate"] = rate
    return validated(SpeechBody, fields)


def flattened(body: object) -> dict[str, Any]:
    """Return the fields of a decoded body, with those of its ``extra_body``; raises BadRequest."""
    if not isinstance(body, dict):
        raise BadRequest("The body must be a JSON object.", code="invalid_type")
    extra = body.get("extra_body")
    if extra is not None and not isinstance(extra, dict):
        raise BadRequest("extra_body: must be an object.", param="extra_body", code="invalid_type")
    return {name: value for name, value in {**body, **(extra or {})}.items() if name != "extra_body"}


def _rate(text: str) -> int:
    rates = {str(rate): rate for rate in SAMPLE_RATES}
    if text not in rates:
        raise BadRequest(f"sample_rate: must be one of {', '.join(rates)}.", param="sample_rate")
    return rates[text]
