"""When each character is spoken, as ElevenLabs' clients read it: spans that cover the audio without a gap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from echo.session import PassageDone
from echo.text.times import SpokenText, TimesMethod


@dataclass(frozen=True, slots=True)
class Spans:
    """Characters and where each begins, in milliseconds; the last entry of ``edges_ms`` is where the last one ends."""

    chars: str
    edges_ms: Sequence[int]
    method: TimesMethod = TimesMethod.ESTIMATE

    @property
    def starts_ms(self) -> list[int]:
        """Where each character begins."""
        return list(self.edges_ms[:-1])

    @property
    def durations_ms(self) -> list[int]:
        """How long each character lasts."""
        return [end - start for start, end in zip(self.edges_ms[:-1], self.edges_ms[1:], strict=True)]


def tiled(
    text: str,
    start_ms: int,
    end_ms: int,
    speech_start_s: float | None,
    speech_end_s: float | None,
    times: SpokenText | None = None,
) -> Spans:
    """Return spans of the characters from ``start_ms`` to ``end_ms``; the speech between them may be unknown.

    ``times`` are those of the text's words; None: estimated, as spoken evenly from the first to the last sound.

    The silences belong to the blank or the mark before them; that in front of the first word to the first character.
    """
    earliest, latest = start_ms / 1000, end_ms / 1000
    if times is not None:
        speech_start_s, speech_end_s = times.start_s, times.end_s
    first = earliest if speech_start_s is None else min(max(earliest, speech_start_s), latest)
    last = latest if speech_end_s is None else min(max(first, speech_end_s), latest)
    words = text.strip()
    before = len(text) - len(text.lstrip()) if words else len(text)
    spoken = SpokenText(text=words, start_s=first, end_s=last) if times is None else times.stripped()
    edges = [first] * before + [char.start_s for char in spoken.characters()]
    edges += [last] + [latest] * (len(text) - len(edges))
    milliseconds = [min(max(start_ms, round(edge * 1000)), end_ms) for edge in edges[: len(text)]]
    return Spans(text, [start_ms, *milliseconds[1:], end_ms] if text else [], spoken.method)


class Timeline:
    """The spans of the passages of a turn, one after another.

    Times count from the beginning of the turn, or with ``restart`` from the end of the passage before: pipecat adds up
    the spans, livekit takes the times as they are.
    """

    def __init__(self, *, restart: bool) -> None:
        self._restart = restart
        self._end_ms = 0
        self._borrowed = False  # the blank in front of the next passage has been sent with the last one

    def passage(self, done: PassageDone) -> Spans:
        """Return the spans of the next passage; they begin where the last one's have ended.

        They end with a blank, at which clients take a word to be complete. Where the passage has none it is the one in
        front of the next, or one that nobody wrote.
        """
        text = done.source
        if self._borrowed and text.startswith(" "):
            text = text[1:]
        self._borrowed = not text.endswith(" ")
        if self._borrowed:
            text += " "
        start_ms = self._end_ms
        self._end_ms = max(start_ms, math.floor(done.end_s * 1000))
        spans = tiled(text, start_ms, self._end_ms, done.speech_start_s, done.speech_end_s, done.times)
        if not self._restart:
            return spans
        return Spans(text, [edge - start_ms for edge in spans.edges_ms], spans.method)


def in_seconds(
    text: str,
    duration_s: float,
    speech_start_s: float | None,
    speech_end_s: float | None,
    times: SpokenText | None = None,
) -> object:
    """Return the alignment of a whole text in the form of the HTTP routes; arguments as for ``tiled``."""
    spans = tiled(text, 0, math.floor(duration_s * 1000), speech_start_s, speech_end_s, times)
    edges = [edge / 1000 for edge in spans.edges_ms]
    return {
        "characters": list(text),
        "character_start_times_seconds": edges[:-1],
        "character_end_times_seconds": edges[1:],
    }
