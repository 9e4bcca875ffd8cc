"""Messages of Twilio's Media Streams. Twilio refuses outgoing ones with any other field (its error 31951)."""

from __future__ import annotations

import base64
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field

from echo.errors import BadRequest
from echo.types import SpeechRequest, VoiceRef
from routes.errors import validated

Sid = Annotated[str, Field(min_length=1, max_length=128)]


class _Wire(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Start(_Wire):
    """What a call is: its stream, and the parameters of its TwiML."""

    stream_sid: Annotated[Sid, Field(alias="streamSid")]
    call_sid: Annotated[str, Field(alias="callSid", max_length=128)] = ""
    parameters: Annotated[dict[str, str], Field(alias="customParameters")] = {}


class Mark(_Wire):
    """A mark of ours: what was sent before it has been played, or cleared."""

    name: str


class Message(_Wire):
    """A message from Twilio; of events that are not needed here only the name is read."""

    event: str
    start: Start | None = None
    mark: Mark | None = None

    @classmethod
    def parse(cls, data: object) -> Self:
        """Validate a decoded message; raises BadRequest naming the field."""
        return validated(cls, data)


class Parameters(_Wire):
    """The ``<Parameter>`` elements that mean something here; their values are strings."""

    voice_id: str | None = None
    preset: str | None = None
    text: str = ""
    #: Ends the call's stream once ``text`` has been heard.
    close: bool = False
    seed: Annotated[int, Field(ge=-1, lt=2**63)] | None = None
    api_key: str = ""

    @classmethod
    def of(cls, start: Start) -> Self:
        """Read a call's parameters; an empty one counts as absent. Raises BadRequest naming the parameter."""
        return validated(cls, {name: value for name, value in start.parameters.items() if value})

    def to_request(self) -> SpeechRequest:
        """Return what all turns of the call have in common."""
        return SpeechRequest(
            text="", voice=VoiceRef(name=self.voice_id), preset=self.preset, seed=self.seed, times=True
        )


def media(stream_sid: str, audio: bytes) -> dict[str, object]:
    """Return the message that has mu-law bytes at 8 kHz played."""
    return {"event": "media", "streamSid": stream_sid, "media": {"payload": base64.b64encode(audio).decode()}}


def mark(stream_sid: str, name: str) -> dict[str, object]:
    """Return the message that comes back once everything before it has been played or cleared."""
    return {"event": "mark", "streamSid": stream_sid, "mark": {"name": name}}


def clear(stream_sid: str) -> dict[str, object]:
    """Return the message that drops everything that has not been played yet."""
    return {"event": "clear", "streamSid": stream_sid}


class SayBody(_Wire):
    """Text for a call, whole or a piece of it; ``end`` says that the turn is complete."""

    text: str = ""
    end: bool = True


class CloseBody(_Wire):
    """``now``: without waiting for what is still to be heard."""

    now: bool = False


class AgentMessage(_Wire):
    """A message on an agent's socket: a piece of text, or an action."""

    text: str = ""
    end: bool = False
    clear: bool = False

    @classmethod
    def parse(cls, data: object) -> Self:
        """Validate a decoded message; raises BadRequest naming the field."""
        message = validated(cls, data)
        if not (message.text or message.end or message.clear):
            raise BadRequest("Unknown message; it needs one of: text, end, clear.")
        return message
