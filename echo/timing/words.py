"""When the words of one utterance are spoken: its way through the text, and the pauses in its sound."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from echo.audio.measure import WINDOW_S, silence_threshold, window_levels
from echo.text.times import Mark
from echo.timing.path import TextPath
from echo.timing.spelling import Written
from echo.types import LATENT_S, Audio, TextAttention

Floats = npt.NDArray[np.floating[Any]]

#: The token before the first byte of a text.
_BOS = 1
#: Silence that counts as a pause between two words, in seconds: longer than the closure of most stops.
PAUSE_S = 0.08
#: How far from where the attention has the edge of a word its pause may be, in seconds: one and a half latents.
_NEAR_S = 0.07


@dataclass(frozen=True, slots=True)
class TimedWord:
    """When a word of the source is spoken, in seconds of its utterance; marks are at its characters and at its end."""

    word: Written
    marks: tuple[Mark, ...]

    @classmethod
    def of(cls, word: Written, chars: Iterable[float], end_s: float) -> TimedWord:
        """Make one of the times of its characters; the first one's is the word's, whatever marks are before it."""
        places = [word.place, *(place for place, _ in word.chars[1:])]
        return cls(word, (*map(Mark, places, chars), Mark(word.end, end_s)))

    @property
    def start_s(self) -> float:
        """When it begins."""
        return self.marks[0].at_s

    @property
    def end_s(self) -> float:
        """When it has ended."""
        return self.marks[-1].at_s


class WordTimes:
    """Times of the words of one utterance, block after block; what a call returns is final.

    words   the source's words in the utterance's text, in order; what is in front of them is not spoken: a tag, or what
            has been spoken before
    tokens  of the text, the begin token included

    A word ends where the next begins, half-way through the blank, or where there is a pause between the two, at its
    edges. A word is returned when speech has come to the next one.
    """

    def __init__(self, words: Sequence[Written], tokens: int, rate: int) -> None:
        self._words = words
        self._rate = rate
        self._path = TextPath(tokens, _BOS + (words[0].first if words else 0))
        self._places: list[Floats] = []
        self._latents = 0
        self._sound = _Sound(rate)
        self._told = 0
        self._end_s = 0.0  # of the word that was told last

    def push(self, attention: TextAttention, samples: Audio) -> list[TimedWord]:
        """Take a block, its attention ``[latents, tokens]`` and its audio up to the end of speech; return words."""
        heard = min(len(attention), math.ceil(len(samples) / self._rate / LATENT_S - 0.01))
        self._sound.push(samples)
        self._places.append(self._path.push(attention[:heard]))
        self._latents += heard
        known = 0
        while known + 1 < len(self._words) and self._path.place >= _BOS + self._words[known + 1].first:
            known += 1
        return self._tell(known)

    def finish(self) -> list[TimedWord]:
        """Return the words that are left, after the last block; none of them in the silence at its end."""
        return self._tell(len(self._words), self._sound.speech_end_s())

    def _tell(self, count: int, latest_s: float = math.inf) -> list[TimedWord]:
        if count <= self._told:
            return []
        places = np.concatenate(self._places) if self._places else np.zeros(0)
        if not len(places):
            places = np.zeros(1)
        # Rising a little, because only then a place has one time.
        places = places + 1e-6 * np.arange(len(places))
        times = (np.arange(len(places)) + 0.5) * LATENT_S
        told = []
        for number in range(self._told, count):
            start = max(self._end_s, min(latest_s, self._gap(number - 1, places, times)[1]))
            end = max(start, min(latest_s, self._gap(number, places, times)[0]))
            self._end_s = end
            told.append(self._timed(self._words[number], start, end, places, times))
        self._told = max(self._told, count)
        return told

    def _gap(self, number: int, places: Floats, times: Floats) -> tuple[float, float]:
        """Where a word ends and the next begins; -1 is before the first word."""
        before = self._words[number].last if number >= 0 else None
        after = self._words[number + 1].first if number + 1 < len(self._words) else None

        def at(place: float) -> float:
            return float(np.interp(_BOS + place, places, times))

        # Not as far as the middle of either word: behind it is the next pause, where the word is short.
        earliest, latest = 0.0, self._sound.length_s
        if before is not None:
            earliest = max(at(before) - _NEAR_S, at(self._words[number].middle))
        if after is not None:
            latest = min(at(after) + _NEAR_S, at(self._words[number + 1].middle))
        if pause := self._sound.pause(earliest, latest, edge=before is None or after is None):
            return pause
        if before is None:
            return 0.0, at(after or 0)
        if after is None:
            return self._sound.length_s, self._sound.length_s
        middle = at((before + after) / 2)
        return middle, middle

    def _timed(self, word: Written, start: float, end: float, places: Floats, times: Floats) -> TimedWord:
        bytes_ = np.array([_BOS + byte for _, byte in word.chars], np.float64)
        at = np.interp(bytes_, places, times).clip(start, end)
        at[0] = start
        return TimedWord.of(word, np.maximum.accumulate(at).tolist(), end)


class _Sound:
    """The loudness of an utterance so far, in windows of 10 ms."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._levels: list[Floats] = []
        self._starts: list[Floats] = []
        self._silences: list[tuple[float, float]] | None = []
        self.length_s = 0.0

    def push(self, samples: Audio) -> None:
        """Take the next samples."""
        levels = window_levels(samples, self._rate)
        self._levels.append(levels)
        self._starts.append(self.length_s + WINDOW_S * np.arange(len(levels)))
        self._silences = None
        self.length_s += len(samples) / self._rate

    def pause(self, earliest: float, latest: float, *, edge: bool) -> tuple[float, float] | None:
        """The longest silence that touches a span; it is as long as a pause, except at an ``edge`` of the speech."""
        if self._silences is None:
            self._silences = self._found()
        least = 0.0 if edge else PAUSE_S
        near = [
            (start, end) for start, end in self._silences if start < latest and end > earliest and end - start >= least
        ]
        return max(near, key=lambda span: span[1] - span[0], default=None)

    def speech_end_s(self) -> float:
        """Where the silence at the end begins; the end where there is none, or nothing else."""
        silences = self._found() if self._levels else []
        start, end = silences[-1] if silences else (0.0, 0.0)
        return start if start > 0 and end >= self.length_s else self.length_s

    def _found(self) -> list[tuple[float, float]]:
        """All silences, in order."""
        levels, starts = np.concatenate(self._levels), np.concatenate(self._starts)
        quiet = levels < silence_threshold(float(levels.max(initial=0.0)))
        edges = np.flatnonzero(np.diff(np.concatenate([[0], quiet.astype(np.int8), [0]])))
        ends = np.append(starts, self.length_s)
        return [(float(starts[a]), float(ends[b])) for a, b in zip(edges[::2], edges[1::2], strict=True)]
