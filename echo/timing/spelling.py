"""Which words of a text, as it was written, are in which chunk of what the model reads, and at which bytes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_WORD = re.compile(r"\S+")
_TAG = re.compile(r"\[S\d+\]")
#: How many characters must agree for text to count as passed that has been left out (markup, directions), and the most
#: that may have been: the fewer agree, the nearer they must be.
_LEFT_OUT = ((8, 4_000), (4, 200), (2, 20))
#: The most characters that spelling may have put in at one place (" times " for an asterisk).
_PUT_IN = 40


@dataclass(frozen=True, slots=True)
class Written:
    """A word of the source, and where the model reads it.

    place, end  first character in the source, and one past the last
    chars       places in the source and bytes in the chunk of the characters that both have, in order; never empty
    last        one past the last of those bytes
    """

    place: int
    end: int
    chars: tuple[tuple[int, int], ...]
    last: int

    @property
    def first(self) -> int:
        """First byte of the word in its chunk."""
        return self.chars[0][1]

    @property
    def middle(self) -> float:
        """Half-way between its first byte and its end."""
        return (self.first + self.last) / 2


@dataclass(frozen=True, slots=True)
class _Char:
    text: str
    chunk: int
    byte: int
    width: int


def find_words(source: str, chunks: Sequence[str]) -> list[list[Written]]:
    """Return for every chunk, as it is spelled, the source's words in it; a word that no chunk has is in none.

    Spelling changes capitals and marks, takes markup and directions out, and puts speaker tags in. Letters and digits
    are compared, in order, whatever their case.
    """
    tags = _tagged(source)
    written = [(place, char) for place, char in enumerate(source) if char.isalnum() and place not in tags]
    spelled = [char for index, chunk in enumerate(chunks) for char in _chars(index, chunk)]
    pairs = _matched("".join(map(_folded, (char for _, char in written))), "".join(_folded(c.text) for c in spelled))
    found: list[list[Written]] = [[] for _ in chunks]
    at = {written[a][0]: spelled[b] for a, b in pairs}
    for word in _WORD.finditer(source):
        chars = [(place, at[place]) for place in range(*word.span()) if place in at]
        if not chars:
            continue
        chunk = chars[0][1].chunk
        inside = [(place, char) for place, char in chars if char.chunk == chunk]
        last = inside[-1][1]
        found[chunk].append(
            Written(word.start(), word.end(), tuple((place, c.byte) for place, c in inside), last.byte + last.width)
        )
    return found


def _chars(index: int, chunk: str) -> list[_Char]:
    """Letters and digits of a chunk with their bytes; none of its speaker tags."""
    tags = _tagged(chunk)
    chars, byte = [], 0
    for place, char in enumerate(chunk):
        width = len(char.encode("utf-8", errors="ignore"))
        if char.isalnum() and place not in tags:
            chars.append(_Char(char, index, byte, width))
        byte += width
    return chars


def _tagged(text: str) -> set[int]:
    """Places inside of speaker tags."""
    return {place for tag in _TAG.finditer(text) for place in range(*tag.span())}


def _folded(char: str) -> str:
    """One character for one, whatever its case."""
    lower = char.lower()
    return lower if len(lower) == 1 else char


def _matched(source: str, spoken: str) -> list[tuple[int, int]]:
    """Pairs of indices of the same character in both, rising, over what only one of them has."""
    pairs: list[tuple[int, int]] = []
    a = b = 0
    while a < len(source) and b < len(spoken):
        if source[a] == spoken[b]:
            pairs.append((a, b))
            a, b = a + 1, b + 1
            continue
        left_out, put_in = _passed(source, spoken, a, b)
        if left_out is not None and (put_in is None or left_out - a <= put_in - b):
            a = left_out
        elif put_in is not None:
            b = put_in
        else:
            a, b = a + 1, b + 1
    return pairs


def _passed(source: str, spoken: str, a: int, b: int) -> tuple[int | None, int | None]:
    """Where the source goes on as the spoken text does at ``b``, and where that goes on as the source at ``a``."""
    for sure, farthest in _LEFT_OUT:
        left_out = source.find(spoken[b : b + sure], a, a + farthest)
        put_in = spoken.find(source[a : a + sure], b, b + _PUT_IN)
        if left_out >= 0 or put_in >= 0:
            return left_out if left_out >= 0 else None, put_in if put_in >= 0 else None
    return None, None
