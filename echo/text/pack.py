"""Sentences into chunks: how long they take to speak, how many fit together, where a long one is cut."""

from __future__ import annotations

import bisect
import math
import re
import unicodedata
from collections.abc import Callable
from dataclasses import replace

from echo.text.sentences import CLAUSE_END
from echo.types import ChunkRules

_SPACE = re.compile(r"\s")
# Rates that the reference streaming server falls back to when one is zero or negative.
_FALLBACK_CHARS_PER_S = 4.0
_FALLBACK_WORDS_PER_S = 2.5
#: A cut moves back by at most this many combining marks, so that they stay with their letter.
_MOST_MARKS = 32


def estimate_seconds(text: str, chars_per_s: float, words_per_s: float) -> float:
    """Estimate the speaking time of ``text`` in seconds: by its characters or by its words, whichever is longer.

    ``chars_per_s`` and ``words_per_s`` at or below zero fall back to 4.0 and 2.5. An empty text counts as one word.
    """
    chars_rate = chars_per_s if chars_per_s > 0 else _FALLBACK_CHARS_PER_S
    words_rate = words_per_s if words_per_s > 0 else _FALLBACK_WORDS_PER_S
    return max(len(text) / chars_rate, max(1, len(text.split())) / words_rate)


class Packer:
    """Collects sentences into chunks of about the target length, as the reference streaming server does.

    A sentence closes the chunk before it if it would exceed the maximum, or the target of a chunk that has the minimum
    already. Unlike there, a sentence is cut that exceeds the maximum or what the model can read. :meth:`add` returns a
    chunk as soon as no further sentence could join it.
    """

    def __init__(self, rules: ChunkRules) -> None:
        self._rules = rules if rules.enabled else replace(rules, target_s=math.inf, min_s=math.inf, max_s=math.inf)
        self._parts: list[str] = []
        self._spoken: list[str] = []
        self._seconds = 0.0
        self._tag = ""

    def add(self, tag: str, sentence: str) -> list[str]:
        """Add a sentence of speaker ``tag``; return the chunks that are now complete."""
        pieces = cut_to_fit(
            sentence,
            fits=lambda piece: self._fits(f"{tag} {piece}") and self._estimate(piece) <= self._rules.max_s,
            must_fit=lambda piece: self._fits(f"{tag} {piece}"),
        )
        return [text for piece in pieces for text in self._add_piece(tag, piece)]

    def close(self) -> list[str]:
        """End the current chunk; return it, or nothing if it is empty."""
        text = " ".join(self._parts)
        self._parts, self._spoken, self._seconds = [], [], 0.0
        return [text] if text else []

    def _add_piece(self, tag: str, piece: str) -> list[str]:
        rules = self._rules
        seconds = self._estimate(piece)
        done: list[str] = []
        if self._parts and self._must_close_before(tag, piece, seconds):
            done = self.close()
        self._parts.append(piece if self._parts and tag == self._tag else f"{tag} {piece}")
        self._spoken.append(piece)
        self._seconds += seconds
        self._tag = tag
        if self._seconds >= rules.max_s or (self._seconds >= rules.target_s and self._seconds >= rules.min_s):
            done += self.close()
        return done

    def _must_close_before(self, tag: str, piece: str, seconds: float) -> bool:
        rules = self._rules
        total = self._seconds + seconds
        if (total > rules.target_s and self._seconds >= rules.min_s) or total > rules.max_s:
            return True
        joined = " ".join([*self._parts, piece if tag == self._tag else f"{tag} {piece}"])
        return not self._fits(joined) or self._estimate(" ".join([*self._spoken, piece])) > rules.max_s

    def _estimate(self, text: str) -> float:
        return estimate_seconds(text, self._rules.chars_per_s, self._rules.words_per_s)

    def _fits(self, text: str) -> bool:
        rules = self._rules
        return len(text.encode()) <= rules.max_bytes and (rules.max_chars is None or len(text) <= rules.max_chars)


def cut_to_fit(text: str, *, fits: Callable[[str], bool], must_fit: Callable[[str], bool]) -> list[str]:
    """Cut a sentence into pieces of about equal length that fit.

    The cut is after a clause mark if one is near, else between words. A single word that does not satisfy ``fits``
    stays whole unless it breaks ``must_fit`` too; then it is cut between characters. Both must be true for every
    prefix of a text for which they are true.
    """
    pieces = []
    # Each round reads only as much of the text as may fit, so the time stays linear.
    while (longest := _longest(text, fits)) < len(text):
        parts = math.ceil(len(text) / max(longest, 1))
        place = _best_place(text, aim=math.ceil(len(text) / parts), longest=longest)
        if place == 0:
            place = _after_first_word(text, must_fit)
        if place >= len(text):
            break
        pieces.append(text[:place].rstrip())
        text = text[place:].lstrip()
    return [*pieces, text] if text else pieces


def _longest(text: str, fits: Callable[[str], bool]) -> int:
    """Return the length of the longest prefix of ``text`` that fits."""
    reach = 64
    while reach < len(text) and fits(text[:reach]):
        reach *= 2
    return bisect.bisect_left(range(1, min(reach, len(text)) + 1), True, key=lambda n: not fits(text[:n]))


def _best_place(text: str, aim: int, longest: int) -> int:
    clauses = [found.end() for found in CLAUSE_END.finditer(text, 0, longest)]
    near = [place for place in clauses if aim // 2 <= place]
    places = near or [found.start() for found in _SPACE.finditer(text, 0, longest + 1)]
    return min(places, key=lambda place: abs(place - aim), default=0)


def _after_first_word(text: str, must_fit: Callable[[str], bool]) -> int:
    longest = _longest(text, must_fit)
    space = _SPACE.search(text, 0, longest + 1)
    if space is not None or longest == len(text):
        return space.start() if space is not None else len(text)
    place = max(1, longest)
    for back in range(min(place, _MOST_MARKS)):
        if not unicodedata.combining(text[place - back]):
            return max(1, place - back)
    return place
