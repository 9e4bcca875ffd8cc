"""Times of words and characters of a text that is spoken."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

_WORD = re.compile(r"\S+")


class TimesMethod(StrEnum):
    """What times come from; clients are told as ``timestamps_method``."""

    ATTENTION = "attention"  # of the model to its text
    ESTIMATE = "estimate"  # every character of a text takes the same time, blanks included


@dataclass(frozen=True, slots=True)
class Timed:
    """A word or a character and when it is spoken, in seconds."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a text, in characters, and when it is spoken, in seconds."""

    place: int
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SpokenText:
    """A text that is spoken from ``start_s`` to ``end_s``, at ``marks`` at known times, which rise in both.

    What lies between two marks takes the same time per character. Times never decrease, are rounded to milliseconds and
    never beyond ``end_s``.
    """

    text: str
    start_s: float
    end_s: float
    marks: Sequence[Mark] = ()
    method: TimesMethod = TimesMethod.ESTIMATE

    def words(self) -> list[Timed]:
        """Return the words with their punctuation: pipecat matches them against the text it sent."""
        return [Timed(word.group(), self._at(word.start()), self._at(word.end())) for word in _WORD.finditer(self.text)]

    def characters(self) -> list[Timed]:
        """Return every character, blanks too."""
        return [Timed(char, self._at(place), self._at(place + 1)) for place, char in enumerate(self.text)]

    def placed(self, where: Callable[[float], float]) -> SpokenText:
        """Return the same on another clock; ``where`` a time of this one lies there, and never falls."""
        return replace(
            self,
            start_s=where(self.start_s),
            end_s=where(self.end_s),
            marks=tuple(Mark(mark.place, where(mark.at_s)) for mark in self.marks),
        )

    def stripped(self) -> SpokenText:
        """Return the same without the blanks around the text."""
        text = self.text.strip()
        before = len(self.text) - len(self.text.lstrip())
        marks = tuple(Mark(mark.place - before, mark.at_s) for mark in self.marks)
        return replace(self, text=text, marks=tuple(mark for mark in marks if 0 <= mark.place <= len(text)))

    def at(self, place: int) -> float:
        """Return when a place, 0 to the text's length, is spoken; not rounded."""
        number = bisect_right(self.marks, place, key=lambda mark: mark.place)
        before = self.marks[number - 1] if number else Mark(0, self.start_s)
        after = self.marks[number] if number < len(self.marks) else Mark(len(self.text), self.end_s)
        if after.place <= before.place:
            return before.at_s
        return before.at_s + (after.at_s - before.at_s) * (place - before.place) / (after.place - before.place)

    def _at(self, place: int) -> float:
        return min(round(self.at(place), 3), math.floor(self.end_s * 1000) / 1000)
