"""Estimated times of words and characters: every character of a text takes the same time, blanks included."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

_WORD = re.compile(r"\S+")


@dataclass(frozen=True, slots=True)
class Timed:
    """A word or a character and when it is spoken, in seconds."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SpokenText:
    """A text that is spoken from ``start_s`` to ``end_s``.

    Times never decrease, are rounded to milliseconds and never beyond ``end_s``.
    """

    text: str
    start_s: float
    end_s: float

    def words(self) -> list[Timed]:
        """Return the words with their punctuation: pipecat matches them against the text it sent."""
        return [Timed(word.group(), self._at(word.start()), self._at(word.end())) for word in _WORD.finditer(self.text)]

    def characters(self) -> list[Timed]:
        """Return every character, blanks too."""
        return [Timed(char, self._at(place), self._at(place + 1)) for place, char in enumerate(self.text)]

    def _at(self, place: int) -> float:
        seconds = self.start_s + (self.end_s - self.start_s) * place / len(self.text)
        return min(round(seconds, 3), math.floor(self.end_s * 1000) / 1000)
