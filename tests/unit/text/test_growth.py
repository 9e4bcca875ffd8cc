"""Cleaning and splitting takes time in proportion to the length of the text, also when it arrives in pieces."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from echo.text import Boundary, TextStream, split
from echo.types import ChunkRules, TextRules

pytestmark = pytest.mark.slow

#: Texts of n characters that once took the square of their length, or that look as if they might.
TEXTS: dict[str, Callable[[int], str]] = {
    "marks on one letter": lambda n: "a" + "\u0301" * n,
    "marks out of order": lambda n: "a" + "\u0315\u0300\u05ae" * (n // 3),
    "underscores between letters": lambda n: "a" + "_" * n + "a",
    "blanks in a heading": lambda n: "# a" + " " * n + "b",
    "blanks that open a line": lambda n: " " * n + "x",
    "blanks before abbreviations": lambda n: " " * (n // 2) + "e.g. " * (n // 10),
    "dots in an address": lambda n: "<" + "." * n,
    "stage directions": lambda n: "*a* " * (n // 4),
    "comments that never end": lambda n: "<!-- " * (n // 5),
    "code that never ends": lambda n: "`" * (n // 2) + "a" * (n // 2),
    "fences that never end": lambda n: "```x\n" * (n // 5),
    "block tags": lambda n: "a" + " <br/>" * (n // 6),
    "attributes that never end": lambda n: "<a" + " a=b" * (n // 4),
    "links that never end": lambda n: "[a](b " * (n // 6),
    "dividers that are none": lambda n: "- " * (n // 2) + "x",
    "a word without an end": lambda n: "a" * n,
    "pictographs": lambda n: "🙂" * n,
    "short sentences": lambda n: "a. " * (n // 3),
    "pauses": lambda n: "a[pause:1s]" * (n // 11),
    "speakers": lambda n: "[S1]a " * (n // 6),
    "commas": lambda n: ", " * (n // 2),
    "a long number": lambda n: "1" * n,
    "numbers in a row": lambda n: "1." * (n // 2),
    "groups of figures": lambda n: "1,111-" * (n // 6),
    "times": lambda n: "1:00 " * (n // 5),
    "figures between letters": lambda n: "A1" * (n // 2),
}
RULES = [ChunkRules(), ChunkRules(target_s=1, min_s=1, max_s=1, chars_per_s=1.0)]
SMALL, FACTOR = 2048, 8
#: Characters of a piece; few, so that reading all that is pending again for every piece would show.
PIECE = 8


def seconds(work: Callable[[str], object], text: str) -> float:
    """Processor time of this thread alone, so that a busy machine does not matter."""
    start = time.thread_time()
    work(text)
    return time.thread_time() - start


def is_linear(work: Callable[[str], object], text: Callable[[int], str]) -> bool:
    # The square would be 64 times. The best of some tries, and a floor, because small times are inexact.
    short, long = text(SMALL), text(SMALL * FACTOR)
    return any(seconds(work, long) <= 3 * FACTOR * max(seconds(work, short), 0.004) for _ in range(4))


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("markup", [True, False])
def test_a_text_eight_times_as_long_takes_not_much_more_than_eight_times_as_long(name: str, markup: bool) -> None:
    for rules in RULES:
        assert is_linear(
            lambda text, rules=rules: split(text, TextRules(strip_markup=markup, spell_out=True), rules), TEXTS[name]
        )


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("boundary", [Boundary.SENTENCE, Boundary.WORD])
def test_a_text_that_arrives_in_small_pieces_is_read_once(name: str, boundary: Boundary) -> None:
    def trickle(text: str) -> None:
        stream = TextStream()
        for place in range(0, len(text), PIECE):
            stream.feed(text[place : place + PIECE])
            stream.take(boundary)
        stream.flush()

    assert is_linear(trickle, TEXTS[name])
