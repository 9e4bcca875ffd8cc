"""The phone inventory that both teachers share, and where in a text every phone belongs."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

PAUSE = "pau"

PHONES: tuple[str, ...] = (
    PAUSE,
    *("aa", "ae", "ah", "ao", "aw", "ax", "ay", "b", "ch", "d", "dh", "eh", "er", "ey", "f", "g", "hh", "ih", "iy"),
    *("jh", "k", "l", "m", "n", "ng", "ow", "oy", "p", "r", "s", "sh", "t", "th", "uh", "uw", "v", "w", "y", "z", "zh"),
)
"""Flite's US English phones (ARPAbet in lower case without stress, schwa as "ax"); the first one is silence."""

_WORD = re.compile(rb"[A-Za-z][A-Za-z'-]*")


@dataclass(frozen=True, slots=True)
class Span:
    """One phone and when it sounds.

    Attributes:
        symbol: One of ``PHONES``.
        start: Begin in seconds.
        end: End in seconds.
    """

    symbol: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Word:
    """The bytes of a word in its text and the phones spoken for it.

    Attributes:
        start: First byte.
        end: One past the last byte.
        phones: At least one phone, in order, no pauses.
    """

    start: int
    end: int
    phones: tuple[Span, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Speech:
    """What a synthesiser made of a text.

    Attributes:
        samples: Mono, float64 ``[n]`` within +-1.
        rate: Samples per second.
        phones: All phones in order, pauses included.
        words: The words of the text in order.
    """

    samples: NDArray[np.float64]
    rate: int
    phones: tuple[Span, ...]
    words: tuple[Word, ...]


def word_bytes(text: str) -> list[tuple[int, int]]:
    """First byte and one past the last byte of every word; hyphens and apostrophes inside a word are part of it."""
    return [match.span() for match in _WORD.finditer(text.encode())]


def character_times(text: str, words: Sequence[Word]) -> NDArray[np.float32]:
    """Centre time in seconds of every byte of a text, float32 ``[bytes]``, never decreasing.

    Inside a word the n-th of N phones is heard at the byte position (n + 1/2) / N of the word, with straight lines
    between; the bytes between two words (punctuation and spaces) share the time between them, so that a pause lies on
    its comma.
    """
    length = len(text.encode())
    positions, times = [], []
    for word in words:
        width, count = word.end - word.start, len(word.phones)
        positions += [word.start, *(word.start + (n + 0.5) / count * width for n in range(count)), word.end]
        centres = [(phone.start + phone.end) / 2 for phone in word.phones]
        times += [word.phones[0].start, *centres, word.phones[-1].end]
    if not positions:
        raise ValueError(f"no word of the text was spoken: {text!r}")
    if any(after < before for before, after in pairwise(positions)):
        raise ValueError(f"the words of the text overlap: {text!r}")
    centres_of_bytes = np.arange(length) + 0.5
    return np.maximum.accumulate(np.interp(centres_of_bytes, positions, times)).astype(np.float32)
