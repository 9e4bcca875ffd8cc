"""Estimated word and character times. The model gives no alignment, so a constant speaking rate is assumed."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from compat.inworld.schemas import TimestampType

_WORD = re.compile(r"\S+")


@dataclass(frozen=True, slots=True)
class Span:
    """Where the speech is, in seconds from the first sample that the client gets."""

    start_s: float
    end_s: float


def speech_span(audio_s: float, speech_start_s: float | None, speech_end_s: float | None, duration_s: float) -> Span:
    """Return where speech lies in audio of ``duration_s``, measured when the same audio was ``audio_s`` long.

    The two lengths differ where the speed of speech has been changed. Silent audio counts as speech from end to end.
    The span always lies within the audio.
    """
    if audio_s <= 0:
        return Span(0.0, 0.0)
    end = min(audio_s, speech_end_s if speech_end_s is not None else audio_s)
    start = min(end, max(0.0, speech_start_s or 0.0))
    scale = duration_s / audio_s
    return Span(start * scale, min(end * scale, duration_s))


def timestamp_info(kind: TimestampType, text: str, span: Span) -> dict[str, object] | None:
    """Return ``timestampInfo`` for a text spoken over ``span``; None when no timestamps were asked for.

    Every character of the text takes the same time, blanks included, so a word's time is proportional to its length.
    Times are non-decreasing, rounded to milliseconds, and never beyond the span. Words keep their punctuation:
    pipecat matches them against the text it sent.
    """
    text = text.strip()
    match kind:
        case TimestampType.WORD:
            places = [(word.group(), word.start(), word.end()) for word in _WORD.finditer(text)]
            return {"wordAlignment": _arrays("words", "word", places, len(text), span)}
        case TimestampType.CHARACTER:
            places = [(char, index, index + 1) for index, char in enumerate(text)]
            return {"characterAlignment": _arrays("characters", "character", places, len(text), span)}
        case TimestampType.NONE:
            return None


def _arrays(
    items: str, prefix: str, places: list[tuple[str, int, int]], length: int, span: Span
) -> dict[str, list[str] | list[float]]:
    def at(place: int) -> float:
        seconds = span.start_s + (span.end_s - span.start_s) * place / length
        return min(round(seconds, 3), math.floor(span.end_s * 1000) / 1000)

    return {
        items: [item for item, _, _ in places],
        f"{prefix}StartTimeSeconds": [at(start) for _, start, _ in places],
        f"{prefix}EndTimeSeconds": [at(end) for _, _, end in places],
    }
