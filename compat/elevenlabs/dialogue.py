"""``WS /v1/text-to-dialogue/multi-stream-input``: what clients use for the models ``eleven_v3`` and ``eleven_v4``.

A context brings its voice. Its audio is sent with its times, a passage at a time: livekit counts the times from the
audio of the same message, pipecat from the spans before it, and only so both are right.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator

from typing_extensions import override

from compat.elevenlabs.alignment import Spans
from compat.elevenlabs.answers import Answer, Answers
from compat.elevenlabs.errors import LateSettings, error_message
from compat.elevenlabs.multi import Context, MultiStream
from compat.elevenlabs.opening import check_voice
from compat.elevenlabs.schemas import DialogueMessage, Message
from compat.elevenlabs.turn import Turn
from echo.errors import BadRequest
from echo.text import EARLY, SpeakRules
from routes.deps import client_of


class DialogueStream(MultiStream):
    """One connection. Text is spoken as soon as there is a clause; a close speaks the rest, a second one stops."""

    @override
    def _parsed(self, data: object) -> Message:
        return DialogueMessage.parse(data)

    @override
    async def _voice_of(self, message: Message) -> str:
        voice = _named(message)
        if voice is None:
            raise BadRequest("voices: the first message of a context has to name its voice.", param="voices")
        await check_voice(self._service, voice, client_of(self._socket))
        return voice

    @override
    def _check_later(self, message: Message, context: Context) -> None:
        super()._check_later(message, context)
        if _named(message) not in (None, context.voice):
            raise LateSettings("voices: a context keeps the voice of its first message.", param="voices")

    @override
    def _rules(self, context: Context) -> SpeakRules:
        return EARLY

    @property
    @override
    def _restart(self) -> bool:
        return True

    @override
    def _answers(self, context_id: str | None) -> Answers:
        return DialogueAnswers(context_id)

    @override
    async def _close(self, turn: Turn) -> None:
        if turn.closing:
            await super()._close(turn)
        else:
            turn.end()


class DialogueAnswers(Answers):
    """The messages of the dialogue socket."""

    def __init__(self, context_id: str | None) -> None:
        self._context_id = context_id
        self._held = b""

    @override
    def audio(self, data: bytes) -> Iterator[Answer]:
        self._held += data
        return iter(())

    @override
    def times(self, spans: Spans) -> Answer:
        alignment = {
            "chars": list(spans.chars),
            "char_start_times_ms": spans.starts_ms,
            "char_durations_ms": spans.durations_ms,
        }
        method = {"timestamps_method": spans.method.value}
        return {**self._audio(), "alignment": alignment, "normalized_alignment": alignment, **method}

    @override
    def final(self) -> Iterator[Answer]:
        if self._held:
            yield self._audio()
        yield {"context_id": self._context_id, "audio": None, "is_final": True}

    @override
    def error(self, error: Exception) -> Answer:
        return {"context_id": self._context_id, **error_message(error)}

    def _audio(self) -> Answer:
        audio, self._held = self._held, b""
        return {
            "context_id": self._context_id,
            "audio": base64.b64encode(audio).decode("ascii"),
            "is_final": False,
            "alignment": None,
        }


def _named(message: Message) -> str | None:
    return message.voice if isinstance(message, DialogueMessage) else None
