"""What is not spoken, by the examples of docs/text.md and beyond."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echo.text import TextStream, split
from echo.text.markup import strip_markup
from echo.text.stage import is_stage_direction
from echo.types import ChunkRules, TextRules

DOC = Path(__file__).parents[3] / "docs" / "text.md"
STRIPPING = "It speaks"
NOT_STRIPPING = "It speaks without stripping"
EMBEDDED = "The embedded model speaks"

bounded = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", row.strip().strip("|"))]


def code(cell: str) -> str:
    """The content of a code span, as the reader of the page sees it."""
    inner = re.sub(r"^(`+)(.*?)\1$", r"\2", cell)
    assert inner != cell, f"not a code span: {cell}"
    if "`" in inner:
        inner = inner.removeprefix(" ").removesuffix(" ")
    return inner.replace("\\|", "|").replace("⏎", "\n")


def heard(cell: str) -> list[str | int]:
    parts = re.findall(r"`([^`]*)`|⟨(\d+) ms⟩", cell)
    return [int(silence) if silence else text for text, silence in parts]


def examples() -> list[tuple[str, str, list[str | int]]]:
    found = []
    header = ""
    for line in DOC.read_text(encoding="utf-8").splitlines():
        if not line.startswith("|"):
            continue
        left, right = cells(line)
        if left == "You write":
            header = right
        elif not left.startswith("---"):
            found.append((header, code(left), heard(right)))
    return found


def stripped(text: str) -> str:
    """A whole text without what must not be spoken, every run of blanks one space."""
    stream = TextStream()
    stream.feed(text)
    return " ".join(" ".join(strip_markup(unit) for unit in stream.flush().units).split())


def speak(text: str, rules: TextRules) -> list[str | int]:
    said: list[str | int] = []
    for chunk in split(text, rules, ChunkRules()):
        said += [chunk.pause_before_ms, chunk.text.removeprefix("[S1] "), chunk.pause_after_ms]
    return [item for item in said if item]


def test_the_page_has_its_examples() -> None:
    headers = [header for header, _, _ in examples()]
    assert headers.count(STRIPPING) > 50
    assert headers.count(NOT_STRIPPING) >= 4
    assert headers.count(EMBEDDED) > 5
    assert set(headers) == {STRIPPING, NOT_STRIPPING, EMBEDDED}


@pytest.mark.parametrize(("header", "text", "expected"), examples(), ids=lambda value: str(value)[:40])
def test_the_page_says_what_is_spoken(header: str, text: str, expected: list[str | int]) -> None:
    rules = TextRules(strip_markup=header != NOT_STRIPPING, spell_out=header == EMBEDDED)
    assert speak(text, rules) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('*She smiles.* "Hello, traveller."', '"Hello, traveller."'),
        ('"I do," *she says softly, looking away,* "but not now."', '"I do," "but not now."'),
        ("*he **really** smiles* Hi.", "Hi."),
        ("*he sits by the fire* hey, hello *she waves at the tall man*", "hey, hello"),
        ("I know *they want it*, yes", "I know they want it, yes"),
        ("*He who* dares. *Never ever* say", "He who dares. Never ever say"),
        ("un**believ**able and f*ck", "unbelievable and f*ck"),
        ("* one\n* two *really* good\n", "one. two really good."),
        ("*never closed. Next one", "*never closed. Next one"),
        ("\\*not a mark\\*", "not a mark"),
        ("snake_case and __init__", "snake_case and init"),
        ("[text][1] and [happy][excited] go", "text and go"),
        ("[1]: https://example.org/long\nText", "Text"),
        ("[Alice]: Hello", ": Hello"),
        ("# About C#\n# Closed #\n", "About C#. Closed."),
        ("[" + "a long aside " * 6 + "] end", "a long aside " * 6 + "end"),
        ("[a [nested] mark] end", "end"),
        ("- [x] done\n- [ ] open\n", "done. open."),
        ("## Closed heading ##\n", "Closed heading."),
        ("Title\n=====\nText", "Title. Text"),
        ("| a |\n", "a."),
        ("-5 degrees", "-5 degrees"),
        ("1984. What a year", "1984. What a year"),
        ("```\nnever closed", "never closed"),
        ("~~~\ncode\n~~~\n", ""),
        ("<!-- a\n\nb -->Text", "Text"),
        ("<b>bold</b> H<sub>2</sub>O <img src='a b'/>", "bold H2O"),
        ("<https://example.com/x> <joe@example.com>", "example dot com joe at example dot com"),
        ("line one<br>line two</p>", "line one. line two."),
        ("x<y and y>z", "x<y and y>z"),
        ("(https://example.com/a_(b)).", "(example dot com)."),
        ("http://user@localhost:8000/x!", "localhost!"),
        ("ftp://files.example.org", "files dot example dot org"),
        ("&lt;sighs&gt; &#233; &unknown;", "<sighs> é &unknown;"),
        ("10:30 and 5:1", "10:30 and 5:1"),
        ("[pause:1s] [S2] stay", "[pause:1s] [S2] stay"),
    ],
)
def test_strip_markup(text: str, expected: str) -> None:
    assert stripped(text) == expected.strip()


@pytest.mark.parametrize(
    "words", ["sighs", "laughing nervously", "sigh", "clears throat", "he turned away slowly", "nods, smiling", "Cries"]
)
def test_stage_directions_between_asterisks(words: str) -> None:
    assert is_stage_direction(words, sounds_only=False)


@pytest.mark.parametrize("words", ["cry", "turned", "really", "laughs at the king", "stop", "", "3 sighs", "stood"])
def test_emphasised_words_are_no_stage_direction(words: str) -> None:
    assert not is_stage_direction(words, sounds_only=False)


@pytest.mark.parametrize(("words", "sound"), [("pause", True), ("long silence", True), ("nods", False), ("sic", False)])
def test_round_brackets_hold_sounds_only(words: str, sound: bool) -> None:
    assert is_stage_direction(words, sounds_only=True) is sound


@bounded
@given(st.text(alphabet="ab .!?,'\"-", max_size=200))
def test_text_without_marks_keeps_every_letter(text: str) -> None:
    letters = [char for char in text if char in "ab"]
    assert [char for char in stripped(text) if char in "ab"] == letters
