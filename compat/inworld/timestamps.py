"""``timestampInfo``: times of words and characters in Inworld's form."""

from __future__ import annotations

from dataclasses import dataclass

from compat.inworld.schemas import TimestampType
from echo.text.times import SpokenText, Timed


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


def timestamp_info(
    kind: TimestampType, text: str, span: Span, times: SpokenText | None = None
) -> dict[str, object] | None:
    """Return ``timestampInfo`` for a text; None when no timestamps were asked for.

    ``times`` are those of the text's words in the same audio; None: estimated, as spoken evenly over ``span``.
    """
    spoken = (times or SpokenText(text=text, start_s=span.start_s, end_s=span.end_s)).stripped()
    method = {"timestamps_method": spoken.method.value}
    match kind:
        case TimestampType.WORD:
            return {"wordAlignment": _arrays("words", "word", spoken.words()), **method}
        case TimestampType.CHARACTER:
            return {"characterAlignment": _arrays("characters", "character", spoken.characters()), **method}
        case TimestampType.NONE:
            return None


def _arrays(items: str, prefix: str, times: list[Timed]) -> dict[str, list[str] | list[float]]:
    return {
        items: [each.text for each in times],
        f"{prefix}StartTimeSeconds": [each.start_s for each in times],
        f"{prefix}EndTimeSeconds": [each.end_s for each in times],
    }
