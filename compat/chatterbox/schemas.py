"""What Chatterbox clients send: a request to speak, and the messages of the socket that takes text in pieces."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field

from echo.audio.encode import TELEPHONE_RATE
from echo.errors import BadRequest
from echo.presets import Presets
from echo.types import AudioFormat, Encoding, SpeechRequest, VoiceRef
from routes.errors import validated

#: The engine that speaks for these clients, if it is loaded; else the default one does.
ENGINE = "chatterbox"
#: The preset of a request, of a socket that takes text in pieces, and of a warm-up.
BALANCED, ADAPTIVE, REALTIME = "balanced", "adaptive", "realtime"

_VOICE_ID = re.compile(r"[A-Za-z0-9_-]{1,255}")
_LONGEST_SHOWN = 64

MULAW = AudioFormat(encoding=Encoding.MULAW, sample_rate=TELEPHONE_RATE)
Seed = Annotated[int, Field(ge=-1, lt=2**63)]


class OutputFormat(StrEnum):
    """How audio is sent."""

    MULAW = "mulaw"
    WAV = "wav"


class SpeakBody(BaseModel):
    """A text to speak. ``seed`` is an extension: the same one repeats the audio."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    text: Annotated[str, Field(min_length=1)]
    voice_id: Annotated[str, Field(min_length=1)]
    preset: str | None = None
    output_format: OutputFormat | None = None
    seed: Seed | None = None

    @classmethod
    def parse(cls, data: object) -> Self:
        """Validate the body of an HTTP request; raises BadRequest naming the field."""
        body = validated(cls, data)
        check_voice_id(body.voice_id)
        return body

    @classmethod
    def parse_message(cls, data: object) -> Self:
        """Validate a message of the socket; raises BadRequest in the words of the original server."""
        if not isinstance(data, dict):
            raise BadRequest("The message must be a JSON object.")
        if not data.get("text") or not data.get("voice_id"):
            raise BadRequest("Missing text or voice_id")
        return cls.parse(data)

    @property
    def format(self) -> OutputFormat:
        """The format of the answer."""
        return self.output_format or OutputFormat.MULAW

    def to_request(self, presets: Presets, audio: AudioFormat, client: str) -> SpeechRequest:
        """Return the request in which the text is spoken as ``audio``."""
        return SpeechRequest(
            text=self.text,
            voice=VoiceRef(name=self.voice_id),
            format=audio,
            preset=preset_name(presets, self.preset, BALANCED),
            seed=self.seed,
            client=client,
        )


class MessageType(StrEnum):
    """The messages of the socket that takes text in pieces; ``cancel`` is an extension."""

    INIT = "init"
    TEXT = "text"
    END = "end"
    CANCEL = "cancel"


class TurnMessage(BaseModel):
    """A message of that socket; one without a type is text. ``seed``, in ``init``, is an extension."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    type: str = MessageType.TEXT
    voice_id: str | None = None
    preset: str | None = None
    seed: Seed | None = None
    content: str | None = None

    @classmethod
    def parse(cls, data: object) -> Self:
        """Validate a message; raises BadRequest naming the field."""
        if not isinstance(data, dict):
            raise BadRequest("The message must be a JSON object.")
        return validated(cls, data)

    def checked_voice_id(self) -> str:
        """Return the voice of ``init``; raises BadRequest."""
        if not self.voice_id:
            raise BadRequest("Missing voice_id")
        check_voice_id(self.voice_id)
        return self.voice_id


def check_voice_id(voice_id: str) -> None:
    """Raise BadRequest unless it is made of letters, digits, ``_`` and ``-``, as the original server's are."""
    if not _VOICE_ID.fullmatch(voice_id):
        shown = "".join(c for c in voice_id if c.isprintable())[:_LONGEST_SHOWN]
        raise BadRequest(f"Invalid voice_id format: {shown!r}; letters, digits, _ and - are allowed", param="voice_id")


def preset_name(presets: Presets, name: str | None, default: str) -> str:
    """Return the preset that a client gets: an unknown one is ``balanced``, as on the original server.

    An engine whose presets do not include that one speaks with the server's own.
    """
    for candidate in (name or default, BALANCED):
        if candidate in presets.by_name:
            return candidate
    return presets.default
