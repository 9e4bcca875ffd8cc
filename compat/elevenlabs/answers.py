"""The messages that a turn sends, in the form of each socket."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Protocol

from typing_extensions import override

from compat.elevenlabs.alignment import Spans
from compat.elevenlabs.errors import error_message
from routes.response import LINE_AUDIO_BYTES

Answer = dict[str, object]


class Answers(Protocol):
    """Writes the messages of one turn."""

    def audio(self, data: bytes) -> Iterator[Answer]:
        """Take audio whose times are not known yet; yield the messages that are ready."""
        ...

    def times(self, spans: Spans) -> Answer:
        """Return a message that says when the characters of the audio before it are spoken."""
        ...

    def final(self) -> Iterator[Answer]:
        """Yield the messages that end the turn."""
        ...

    def error(self, error: Exception) -> Answer:
        """Return a message that says what went wrong."""
        ...


class SpeechAnswers(Answers):
    """The messages of the text-to-speech sockets.

    ``context_id`` is in every message, in both spellings: pipecat reads one, the SDK the other. None: in none of them.
    """

    def __init__(self, context_id: str | None) -> None:
        self._ids: Answer = {} if context_id is None else {"contextId": context_id, "context_id": context_id}

    @override
    def audio(self, data: bytes) -> Iterator[Answer]:
        for start in range(0, len(data), LINE_AUDIO_BYTES):
            yield self._audio(data[start : start + LINE_AUDIO_BYTES], None)

    @override
    def times(self, spans: Spans) -> Answer:
        alignment: Answer = {
            "chars": list(spans.chars),
            "charStartTimesMs": spans.starts_ms,
            "charDurationsMs": spans.durations_ms,
        }
        return {**self._audio(b"", alignment), "timestamps_method": spans.method.value}

    @override
    def final(self) -> Iterator[Answer]:
        yield {**self._ids, "audio": None, "isFinal": True, "is_final": True}

    @override
    def error(self, error: Exception) -> Answer:
        return {**self._ids, **error_message(error)}

    def _audio(self, data: bytes, alignment: Answer | None) -> Answer:
        return {
            **self._ids,
            "audio": base64.b64encode(data).decode("ascii"),
            "isFinal": False,
            "alignment": alignment,
            "normalizedAlignment": alignment,
        }
