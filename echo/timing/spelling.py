"""Which words of a text, as it was written, are in which chunk of what the model reads, and at which bytes."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from echo.text.spell_out import Expansion, expansions

_WORD = re.compile(r"\S+")
_TAG = re.compile(r"\[S\d+\]")
#: How many characters must agree for text to count as passed that has been left out (markup, directions), and the most
#: that may have been: the fewer agree, the nearer they must be.
_LEFT_OUT = ((8, 4_000), (4, 200), (2, 20))
#: Marks that spelling turns into others, and those that it makes of them.
_TURNED, _INTO = frozenset("—–―‒…:;!?"), frozenset(".,!?")
#: A word of so many characters is searched for as far as four characters are.
_SURE_WORD = 3
#: The most characters that spelling may have put in at one place (" times " for an asterisk).
_PUT_IN = 40


@dataclass(frozen=True, slots=True)
class Written:
    """A word of the source, and where the model reads it.

    place, end  first character in the source, and one past the last
    chars       places in the source and bytes in the chunk of the characters that both have, in order; never empty
    last        one past the last of those bytes
    marks       first character and one past the last of each mark that stands by itself behind it, such as a dash, and
                is read
    """

    place: int
    end: int
    chars: tuple[tuple[int, int], ...]
    last: int
    marks: tuple[tuple[int, int], ...] = ()

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
    """A letter or digit of a text: its place in characters and bytes, and whether a word begins with it."""

    text: str
    place: int
    byte: int
    begins: bool
    chunk: int = 0

    @property
    def end(self) -> int:
        """One past its last byte."""
        return self.byte + len(self.text.encode("utf-8", errors="ignore"))


class _Letters:
    """Letters and digits of a text, alike whatever their case and accents, and the words that they are."""

    def __init__(self, chars: Sequence[_Char]) -> None:
        self.text = "".join(_folded(char.text) for char in chars)
        self._edges = [0, *(number for number, char in enumerate(chars) if char.begins and number), len(chars)]
        #: Where words begin; also where the next one would.
        self.edges = frozenset(self._edges)

    def word(self, place: int) -> tuple[int, int]:
        """Where the word that a letter is in begins, and one past its end."""
        number = bisect_right(self._edges, place)
        return self._edges[number - 1], self._edges[number]

    def find_word(self, word: str, start: int, end: int) -> int:
        """Where a whole word begins, from ``start`` on and before ``end``; -1: nowhere."""
        at = self.text.find(word, start, end)
        while at >= 0 and not (at in self.edges and at + len(word) in self.edges):
            at = self.text.find(word, at + 1, end)
        return at


def find_words(source: str, chunks: Sequence[str], *, spelled_out: bool = False) -> list[list[Written]]:
    """Return for every chunk, as it is spelled, the source's words in it; a word that no chunk has is in none.

    Spelling changes capitals and marks, takes markup and directions out, puts speaker tags in and, if it has
    ``spelled_out`` numbers and the like, makes words of them. Letters and digits are compared, in order, whatever their
    case.
    """
    written = list(_spelled_out(source) if spelled_out else _chars(source))
    spelled = [char for index, chunk in enumerate(chunks) for char in _chars(chunk, index)]
    found: list[list[Written]] = [[] for _ in chunks]
    at: dict[int, _Char] = {}
    ends: dict[int, int] = {}
    for a, b in _matched(_Letters(written), _Letters(spelled)):
        place = written[a].place
        if at.setdefault(place, spelled[b]).chunk == spelled[b].chunk:
            ends[place] = spelled[b].end
    for word in _WORD.finditer(source):
        chars = [(place, at[place]) for place in range(*word.span()) if place in at]
        if not chars:
            continue
        chunk = chars[0][1].chunk
        inside = [(place, char) for place, char in chars if char.chunk == chunk]
        bytes_ = tuple((place, char.byte) for place, char in inside)
        found[chunk].append(Written(word.start(), word.end(), bytes_, ends[inside[-1][0]]))
    firsts = [words[0].place for words in found if words]
    return [list(_marked(source, words, chunk, firsts)) for words, chunk in zip(found, chunks, strict=True)]


def _marked(source: str, words: Sequence[Written], chunk: str, firsts: Sequence[int]) -> Iterator[Written]:
    """Add to the words of a chunk the marks behind them; ``firsts`` are the places at which chunks begin."""
    spelled = chunk.encode("utf-8", errors="ignore")
    for word, after in zip_longest(words, words[1:]):
        read = set(spelled[word.last : after.first if after else None].decode("utf-8", errors="ignore"))
        end = after.place if after else min((first for first in firsts if first > word.place), default=len(source))
        marks = tuple(mark.span() for mark in _WORD.finditer(source, word.end, end) if _is_read(mark[0], read))
        yield replace(word, marks=marks) if marks else word


def _is_read(mark: str, read: set[str]) -> bool:
    """Whether what stands by itself in the source is a mark, and among the characters that are read there."""
    if any(char.isalnum() for char in mark):
        return False  # a word that is left out
    return not read.isdisjoint(mark) or (_TURNED.issuperset(mark) and not read.isdisjoint(_INTO))


def _chars(text: str, chunk: int = 0) -> Iterator[_Char]:
    """Letters and digits of a text; none of its speaker tags."""
    tags = _tagged(text)
    begins, byte = True, 0
    for place, char in enumerate(text):
        if char.isalnum() and place not in tags:
            yield _Char(char, place, byte, begins, chunk)
            begins = False
        elif not unicodedata.combining(char):
            begins = True
        byte += len(char.encode("utf-8", errors="ignore"))


def _spelled_out(text: str) -> Iterator[_Char]:
    """Letters of a text as it is spelled out. Those of "ten" for "10" are spread over the places of the figures."""
    done = 0
    for found in expansions(text):
        yield from _shifted(text[done : found.start], done)
        yield from _spread(text, found)
        done = found.end
    yield from _shifted(text[done:], done)


def _spread(text: str, found: Expansion) -> Iterator[_Char]:
    """Letters of an expansion, at places of what it stands for; every word of it within one written word."""
    places = [place for place in range(found.start, found.end) if not text[place].isspace()]
    of_place = {place: word for word in _WORD.finditer(text, found.start, found.end) for place in range(*word.span())}
    spoken: dict[re.Match[str], list[re.Match[str]]] = {}
    for word in _WORD.finditer(found.words):
        middle = (word.start() + word.end()) / 2 / len(found.words)
        spoken.setdefault(of_place[places[int(middle * len(places))]], []).append(word)
    chars = list(_chars(found.words))
    for written, words in spoken.items():
        first, end = words[0].start(), words[-1].end()
        for char in chars:
            if first <= char.place < end:
                offset = (char.place - first) * (written.end() - written.start()) // (end - first)
                yield replace(char, place=written.start() + offset)


def _shifted(text: str, start: int) -> Iterator[_Char]:
    return (replace(char, place=start + char.place) for char in _chars(text))


def _tagged(text: str) -> set[int]:
    """Places inside of speaker tags."""
    return {place for tag in _TAG.finditer(text) for place in range(*tag.span())}


def _folded(char: str) -> str:
    """One character for one, whatever its case, and without its accents: these may be characters of their own."""
    parts = unicodedata.normalize("NFD", char)
    char = parts[0] if all(map(unicodedata.combining, parts[1:])) else char
    lower = char.lower()
    return lower if len(lower) == 1 else char


def _matched(source: _Letters, spoken: _Letters) -> list[tuple[int, int]]:
    """Pairs of indices of the same character in both, rising, over what only one of them has."""
    pairs: list[tuple[int, int]] = []
    a = b = 0
    while a < len(source.text) and b < len(spoken.text):
        if source.text[a] == spoken.text[b]:
            pairs.append((a, b))
            a, b = a + 1, b + 1
            continue
        left_out, put_in = _passed(source, spoken, a, b)
        if left_out is not None and (put_in is None or left_out - a <= put_in - b):
            a = left_out
            _begin_with_word(pairs, source, spoken, a, b)
        elif put_in is not None:
            b = put_in
        else:
            a, b = a + 1, b + 1
    return pairs


def _begin_with_word(pairs: list[tuple[int, int]], source: _Letters, spoken: _Letters, a: int, b: int) -> None:
    """Move pairs to where the source goes on, at ``a``, up to the beginning of the word that this is within.

    What has been left out may begin as that word does: ``*sighs* So``.
    """
    moved = len(pairs)
    while a not in source.edges and b not in spoken.edges and moved and pairs[moved - 1][1] == b - 1:
        if source.text[a - 1] != spoken.text[b - 1]:
            return
        a, b, moved = a - 1, b - 1, moved - 1
        pairs[moved] = (a, b)


def _passed(source: _Letters, spoken: _Letters, a: int, b: int) -> tuple[int | None, int | None]:
    """Where the source goes on as the spoken text does at ``b``, and where that goes on as the source at ``a``."""
    most = _LEFT_OUT[0][0]
    for sure, farthest in _LEFT_OUT:
        # A whole word is less than many letters, and more than what is left at the end of the text.
        if sure < most or b + most > len(spoken.text):
            word_at = _whole_word(source, spoken, a, b)
            if word_at is not None:
                return word_at, None
        left_out = source.text.find(spoken.text[b : b + sure], a, a + farthest)
        put_in = spoken.text.find(source.text[a : a + sure], b, b + _PUT_IN)
        if left_out >= 0 or put_in >= 0:
            return left_out if left_out >= 0 else None, put_in if put_in >= 0 else None
    return None, None


def _whole_word(source: _Letters, spoken: _Letters, a: int, b: int) -> int | None:
    """Where the source has the word that ``b`` is in, at the same letter; None: nowhere, or too far away."""
    start, end = spoken.word(b)
    reach = _LEFT_OUT[1 if end - start >= _SURE_WORD else 2][1]
    if end - start > reach:
        return None
    at = source.find_word(spoken.text[start:end], a, a + reach)
    return at + b - start if at >= 0 else None
