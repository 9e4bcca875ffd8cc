"""Inworld's request bodies over HTTP, in camelCase (its reference) or snake_case (its samples).

Fields that change nothing here (``temperature``, ``pitch``, ``applyTextNormalization``, ``language``,
``deliveryMode``) are ignored like any unknown field.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import (
    AliasChoices,
    AliasGenerator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictInt,
    ValidationError,
    model_validator,
)
from pydantic.alias_generators import to_camel

from compat.bodies import refusal, without_nulls
from echo.audio.encode import supported_encodings
from echo.options import EmotionOptions, EngineOptions
from echo.types import AudioFormat, Encoding, SpeechRequest, VoiceRef


def _spellings(name: str) -> AliasChoices:
    return AliasChoices(to_camel(name), name)


class Wire(BaseModel):
    """Both spellings of every field, unknown fields ignored, null the same as absent."""

    model_config = ConfigDict(
        alias_generator=AliasGenerator(validation_alias=_spellings, serialization_alias=to_camel),
        extra="ignore",
        frozen=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        return without_nulls(data)

    @classmethod
    def parse(cls, data: object) -> Self:
        """Validate decoded JSON; raises BadRequest naming the field as Inworld's reference spells it."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise refusal(error, to_camel) from None


def upper(value: object) -> object:
    """Bring an enum's name into its spelling, whatever case it came in."""
    return value.upper() if isinstance(value, str) else value


class AudioEncoding(StrEnum):
    """``audioEncoding``: how the audio is packed."""

    LINEAR16 = "LINEAR16"
    PCM = "PCM"
    WAV = "WAV"
    MP3 = "MP3"
    OGG_OPUS = "OGG_OPUS"
    FLAC = "FLAC"
    MULAW = "MULAW"
    ALAW = "ALAW"


class TimestampType(StrEnum):
    """``timestampType``: which times the client asked for."""

    NONE = "TIMESTAMP_TYPE_UNSPECIFIED"
    WORD = "WORD"
    CHARACTER = "CHARACTER"


class TimestampTransport(StrEnum):
    """``timestampTransportStrategy``: times with the last audio, or in a line of their own after it."""

    UNSPECIFIED = "TIMESTAMP_TRANSPORT_STRATEGY_UNSPECIFIED"
    SYNC = "SYNC"
    ASYNC = "ASYNC"


_WHOLE = {
    AudioEncoding.LINEAR16: Encoding.WAV,
    AudioEncoding.PCM: Encoding.PCM,
    AudioEncoding.WAV: Encoding.WAV,
    AudioEncoding.MP3: Encoding.MP3,
    AudioEncoding.OGG_OPUS: Encoding.OPUS,
    AudioEncoding.FLAC: Encoding.FLAC,
    AudioEncoding.MULAW: Encoding.WAV_MULAW,
    AudioEncoding.ALAW: Encoding.WAV_ALAW,
}
#: G.711 has no header in a stream, because players of such streams are telephones.
_STREAMED = {**_WHOLE, AudioEncoding.MULAW: Encoding.MULAW, AudioEncoding.ALAW: Encoding.ALAW}


def default_encoding(available: Collection[Encoding]) -> AudioEncoding:
    """Return Inworld's default, MP3, or what every host has."""
    return AudioEncoding.MP3 if Encoding.MP3 in available else AudioEncoding.LINEAR16


class AudioConfig(Wire):
    """``audioConfig``: encoding, rate in Hz, bit rate in bit/s, speed of speech."""

    audio_encoding: Annotated[AudioEncoding, BeforeValidator(upper)] = Field(
        default_factory=lambda: default_encoding(supported_encodings())
    )
    sample_rate_hertz: Annotated[int, Field(ge=8000, le=48000)] | None = None
    #: livekit spells it in one word.
    bit_rate: Annotated[
        int, Field(gt=0, validation_alias=AliasChoices("bitRate", "bit_rate", "bitrate"), le=10_000_000)
    ] = 128_000
    speaking_rate: Annotated[float, Field(ge=0.5, le=1.5, allow_inf_nan=False)] = 1.0

    def whole(self) -> AudioFormat:
        """Return the format of an answer in one piece: complete files with true sizes."""
        return self._format(_WHOLE[self.audio_encoding])

    def streamed(self, *, header: bool = True) -> AudioFormat:
        """Return the format of a streamed answer; ``header=False`` continues an earlier WAV stream without one."""
        encoding = _STREAMED[self.audio_encoding]
        if encoding is Encoding.WAV and not header:
            encoding = Encoding.PCM
        return self._format(encoding, unsized=True)

    def _format(self, encoding: Encoding, *, unsized: bool = False) -> AudioFormat:
        return AudioFormat(
            encoding=encoding, sample_rate=self.sample_rate_hertz, bit_rate=self.bit_rate, unsized=unsized
        )


class Voicing(EngineOptions, EmotionOptions, Wire):
    """Fields that a request and a socket context share: voice, model, audio format, timestamps.

    The engine options and ``seed`` are this server's extension.
    """

    model_config = ConfigDict(extra="allow")  # an engine's own options

    voice_id: Annotated[str, Field(min_length=1)]
    model_id: str = ""
    audio_config: AudioConfig = Field(default_factory=AudioConfig)
    timestamp_type: Annotated[TimestampType, BeforeValidator(upper)] = TimestampType.NONE
    timestamp_transport_strategy: Annotated[TimestampTransport, BeforeValidator(upper)] = TimestampTransport.SYNC
    seed: Annotated[StrictInt, Field(ge=-1, lt=2**63)] = -1

    @property
    def timestamps_last(self) -> bool:
        """True when timestamps travel in a line of their own."""
        return self.timestamp_transport_strategy is TimestampTransport.ASYNC

    def to_request(self, text: str, audio: AudioFormat, *, streaming: bool, client: str = "") -> SpeechRequest:
        """Return the request to speak ``text`` in the format ``audio``."""
        return SpeechRequest(
            text=text,
            voice=VoiceRef(name=self.voice_id),
            format=audio,
            options=self.options(),
            engine_options=self.others(),
            emotion=self.emotion(),
            seed=self.seed if self.seed >= 0 else None,
            speed=self.audio_config.speaking_rate,
            streaming=streaming,
            client=client,
            times=self.timestamp_type is not TimestampType.NONE,
        )


class SynthesizeBody(Voicing):
    """Body of ``POST /tts/v1/voice`` and ``/tts/v1/voice:stream``."""

    text: str


class VoiceSample(Wire):
    """One recording of a clone upload, base64."""

    audio_data: str
    transcription: str = ""


class CloneBody(Wire):
    """Body of ``POST …/voices:clone``."""

    display_name: str
    lang_code: str = "EN_US"
    voice_samples: Annotated[list[VoiceSample], Field(min_length=1)]
    description: str = ""
    tags: list[str] = []


class VoicePatch(Wire):
    """Body of ``PATCH …/voices/{voice}``: only what is given changes."""

    display_name: str | None = None
    description: str | None = None
    tags: list[str] | None = None
