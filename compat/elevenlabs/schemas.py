"""What ElevenLabs' clients send: bodies over HTTP, queries and messages of the sockets.

Fields that change nothing here (``language_code``, ``apply_text_normalization``, pronunciation dictionaries, ...) are
ignored like any unknown field.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError, model_validator
from typing_extensions import override

from compat.bodies import refusal, without_nulls
from compat.elevenlabs.formats import DEFAULT, OutputFormat, output_format
from echo.audio.encode import supported_encodings
from echo.errors import BadRequest
from echo.options import EmotionOptions, EngineOptions
from echo.types import AudioFormat, SpeechRequest, VoiceRef

#: Seconds without a message after which a socket is closed, unless the client names another number; and the most.
DEFAULT_IDLE_S, MAX_IDLE_S = 20.0, 180.0
#: Seeds that fit an unsigned 32-bit integer.
_MAX_SEED = 2**32 - 1

Number = Annotated[float, Field(allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, le=_MAX_SEED)]


class Body(BaseModel):
    """Unknown fields are ignored, null is the same as absent."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        return without_nulls(data)

    @classmethod
    def parse(cls, data: object) -> Self:
        """Validate what was sent; raises BadRequest naming the field."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise refusal(error) from None


class VoiceSettings(Body):
    """``voice_settings``: all but the speed has no counterpart here."""

    stability: Number | None = None
    similarity_boost: Number | None = None
    style: Number | None = None
    use_speaker_boost: bool | None = None
    speed: Annotated[Number, Field(ge=0.25, le=4)] = 1.0


class GenerationConfig(Body):
    """``generation_config``: after how many characters of buffered text each passage is spoken; the last repeats."""

    chunk_length_schedule: Annotated[tuple[Annotated[int, Field(ge=50, le=500)], ...], Field(min_length=1)] = (
        *(120, 160),
        *(250, 290),
    )


class SpeakBody(EngineOptions, EmotionOptions, Body):
    """The body of the HTTP routes; the engine options are this server's extension."""

    model_config = ConfigDict(extra="allow")  # an engine's own options

    text: StrictStr
    model_id: StrictStr | None = None
    voice_settings: VoiceSettings = VoiceSettings()
    seed: Annotated[StrictInt, Field(ge=0, le=_MAX_SEED)] | None = None

    def to_request(self, voice: str, audio: AudioFormat, client: str) -> SpeechRequest:
        """Return the request for the service."""
        return SpeechRequest(
            text=self.text,
            voice=VoiceRef(name=voice),
            format=audio,
            options=self.options(),
            engine_options=self.others(),
            emotion=self.emotion(),
            seed=self.seed,
            speed=self.voice_settings.speed,
            client=client,
        )


class SocketQuery(Body):
    """The query of a socket's address."""

    output_format: str = DEFAULT
    model_id: str | None = None
    inactivity_timeout: Annotated[Number, Field(gt=0)] = DEFAULT_IDLE_S
    auto_mode: bool = False
    sync_alignment: bool = False
    seed: Seed | None = None

    @property
    def format(self) -> OutputFormat:
        """The format of the audio; raises BadRequest."""
        return output_format(self.output_format, supported_encodings())

    @property
    def idle_s(self) -> float:
        """Seconds without a message after which the socket is closed."""
        return min(self.inactivity_timeout, MAX_IDLE_S)

    def to_request(self, voice: str, settings: VoiceSettings, client: str) -> SpeechRequest:
        """Return the request of a turn, which has no text yet."""
        return SpeechRequest(
            text="",
            voice=VoiceRef(name=voice),
            format=self.format.audio,
            seed=self.seed,
            speed=settings.speed,
            client=client,
            times=True,
        )


class Key(Body):
    """The API key of a first message, where the client could not set a header."""

    key: str = Field("", validation_alias=AliasChoices("xi-api-key", "xi_api_key", "authorization"))

    @property
    def given(self) -> list[str]:
        """The key, if there is one."""
        return [self.key] if self.key else []


class Message(Body):
    """A message of a client, on either of the sockets."""

    context_id: Annotated[
        str | None, Field(validation_alias=AliasChoices("context_id", "contextId"), max_length=256)
    ] = None
    #: None: the message is not about text.
    text: str | None = None
    flush: bool = False
    try_trigger_generation: bool = False
    close_context: bool = False
    close_socket: bool = False
    voice_settings: VoiceSettings | None = None
    generation_config: GenerationConfig | None = None

    @property
    def said(self) -> str:
        """The text, if there is any."""
        return self.text or ""

    @property
    def opens(self) -> bool:
        """Whether the message is for a context that it opens if there is none: an empty text is a keep-alive."""
        return bool(self.said)


class Input(Body):
    """A line of a dialogue and who says it."""

    text: StrictStr
    voice_id: StrictStr


class DialogueMessage(Message):
    """A message of a client on the dialogue socket."""

    voices: Annotated[tuple[StrictStr, ...], Field(max_length=1)] = ()
    inputs: tuple[Input, ...] = ()

    @property
    @override
    def said(self) -> str:
        return "".join(line.text for line in self.inputs)

    @property
    @override
    def opens(self) -> bool:
        return bool(self.voices or self.said)

    @property
    def voice(self) -> str | None:
        """The voice that the message names; raises BadRequest for several."""
        return one_voice([*self.voices, *(line.voice_id for line in self.inputs)])


class DialogueBody(EngineOptions, EmotionOptions, Body):
    """The body of the dialogue over HTTP."""

    model_config = ConfigDict(extra="allow")  # an engine's own options

    inputs: Annotated[tuple[Input, ...], Field(min_length=1)]
    model_id: StrictStr | None = None
    settings: VoiceSettings = VoiceSettings()
    seed: Annotated[StrictInt, Field(ge=0, le=_MAX_SEED)] | None = None

    def to_request(self, audio: AudioFormat, client: str) -> SpeechRequest:
        """Return the request for the service; raises BadRequest for several voices."""
        return SpeechRequest(
            text=" ".join(line.text for line in self.inputs),
            voice=VoiceRef(name=one_voice([line.voice_id for line in self.inputs])),
            format=audio,
            options=self.options(),
            engine_options=self.others(),
            emotion=self.emotion(),
            seed=self.seed,
            speed=self.settings.speed,
            client=client,
        )


def one_voice(names: Sequence[str]) -> str | None:
    """Return the only voice among some names, None if there are no names; raises BadRequest for several."""
    if len(set(names)) > 1:
        raise BadRequest("inputs: a dialogue has one voice on this server.", param="inputs")
    return names[0] if names else None
