"""Sentences into chunks: how many fit together, and where one that is too long is cut."""

from __future__ import annotations

import bisect
import math
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from echo.text.estimate import estimate_seconds

_CLAUSE_END = re.compile(r"[,;:](?=\s)|[、，；：]")
_SPACE = re.compile(r"\s")
#: A letter and its marks are not parted, unless there are more of them than any language has.
_MOST_MARKS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class PackRules:
    """Limits of a chunk: estimated seconds to aim for, and what no chunk may exceed.

    ``max_bytes`` and ``max_chars`` count the speaker tags. ``cut`` False is the reference streaming server: a single
    sentence is never cut, whatever its length.
    """

    target_s: float
    min_s: float
    max_s: float
    chars_per_s: float
    words_per_s: float
    max_bytes: int | None = None
    max_chars: int | None = None
    cut: bool = True


class Packer:
    """Collects sentences into chunks of about the target length; the sums and comparisons are the reference's.

    A sentence closes the chunk before it when it would overshoot the target of a chunk that is long enough already,
    or the maximum in any case. :meth:`add` hands a chunk out as soon as no further sentence could join it.
    """

    def __init__(self, rules: PackRules) -> None:
        self._rules = rules
        self._parts: list[str] = []
        self._spoken: list[str] = []
        self._seconds = 0.0
        self._tag = ""

    def add(self, tag: str, sentence: str) -> list[str]:
        """Add a sentence said by ``tag``; returns the texts of the chunks that are now complete."""
        if not self._rules.cut:
            return self._add_piece(tag, sentence)
        pieces = cut_to_fit(
            sentence,
            fits=lambda piece: self._fits(f"{tag} {piece}") and self._estimate(piece) <= self._rules.max_s,
            must_fit=lambda piece: self._fits(f"{tag} {piece}"),
        )
        return [text for piece in pieces for text in self._add_piece(tag, piece)]

    def close(self) -> list[str]:
        """End the chunk that is being collected; returns its text, or nothing."""
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
        if not rules.cut:
            return False
        joined = " ".join([*self._parts, piece if tag == self._tag else f"{tag} {piece}"])
        return not self._fits(joined) or self._estimate(" ".join([*self._spoken, piece])) > rules.max_s

    def _estimate(self, text: str) -> float:
        return estimate_seconds(text, self._rules.chars_per_s, self._rules.words_per_s)

    def _fits(self, text: str) -> bool:
        rules = self._rules
        if rules.max_chars is not None and len(text) > rules.max_chars:
            return False
        return rules.max_bytes is None or len(text.encode()) <= rules.max_bytes


def cut_to_fit(text: str, *, fits: Callable[[str], bool], must_fit: Callable[[str], bool]) -> list[str]:
    """Cut a sentence into pieces of about equal length that fit.

    The cut is made after a clause mark if one is near the wanted place, else between words. A single word that does
    not fit stays whole, unless it breaks ``must_fit`` too; then it is cut between characters. Both conditions must
    hold for every beginning of a text for which they hold.
    """
    pieces = []
    # Only as much of the text is looked at as may fit: looking at all of it for every piece would take its square.
    while (room := _longest(text, fits)) < len(text):
        parts = math.ceil(len(text) / max(room, 1))
        place = _best_place(text, aim=math.ceil(len(text) / parts), room=room)
        if place == 0:
            place = _after_first_word(text, must_fit)
        if place >= len(text):
            break
        pieces.append(text[:place].rstrip())
        text = text[place:].lstrip()
    return [*pieces, text] if text else pieces


def _longest(text: str, fits: Callable[[str], bool]) -> int:
    """Length of the longest beginning of ``text`` that fits."""
    reach = 64
    while reach < len(text) and fits(text[:reach]):
        reach *= 2
    return bisect.bisect_left(range(1, min(reach, len(text)) + 1), True, key=lambda n: not fits(text[:n]))


def _best_place(text: str, aim: int, room: int) -> int:
    clauses = [found.end() for found in _CLAUSE_END.finditer(text, 0, room)]
    near = [place for place in clauses if aim // 2 <= place]
    places = near or [found.start() for found in _SPACE.finditer(text, 0, room + 1)]
    return min(places, key=lambda place: abs(place - aim), default=0)


def _after_first_word(text: str, must_fit: Callable[[str], bool]) -> int:
    room = _longest(text, must_fit)
    space = _SPACE.search(text, 0, room + 1)
    if space is not None or room == len(text):
        return space.start() if space is not None else len(text)
    place = max(1, room)
    for back in range(min(place, _MOST_MARKS)):
        if not unicodedata.combining(text[place - back]):
            return max(1, place - back)
    return place
