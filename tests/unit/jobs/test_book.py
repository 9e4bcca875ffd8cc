"""A book becomes chapters and pieces, and loses no word."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echo.jobs.book import CHAPTER_MS, PARAGRAPH_MS, SENTENCE_MS, chapters
from tests.processes import PATIENCE_S, ROOT

PLAIN = """The Sea

By nobody.

Chapter 1. Ashore

It rained. Nobody spoke.

Then it stopped.

CHAPTER 2

The ship left.

Part of the crew stayed, which is not the title of anything at all, however it begins; it goes on and on and on.

Epilogue

It came back.
"""

MARKDOWN = """Before.

# One

First.

### A detail

More of it.

```python
# no heading
```

Two
===

## Three ##

Last.
"""


def test_plain_text_has_a_chapter_where_a_paragraph_says_so() -> None:
    found = chapters(PLAIN, markdown=False)
    assert [chapter.title for chapter in found] == ["", "Chapter 1. Ashore", "CHAPTER 2", "Epilogue"]
    assert found[1].pieces[0].text == "Chapter 1. Ashore\n\nIt rained. Nobody spoke.\n\nThen it stopped."


def test_a_form_feed_begins_a_chapter() -> None:
    assert [chapter.pieces[0].text for chapter in chapters("One.\fTwo.", markdown=False)] == ["One.", "Two."]


def test_markdown_has_a_chapter_at_headings_of_two_levels() -> None:
    found = chapters(MARKDOWN, markdown=True)
    assert [chapter.title for chapter in found] == ["", "One", "Two", "Three"]
    assert "A detail" in found[1].pieces[0].text
    assert "no heading" not in "".join(piece.text for chapter in found for piece in chapter.pieces)


def test_pieces_end_at_paragraphs_and_in_long_ones_at_sentences() -> None:
    (chapter,) = chapters("One. Two. Three.\n\nFour.\n\nFive.", markdown=False, piece_chars=12)
    assert [(piece.text, piece.pause_ms) for piece in chapter.pieces] == [
        ("One. Two.", SENTENCE_MS),
        ("Three.", PARAGRAPH_MS),
        ("Four.\n\nFive.", CHAPTER_MS),
    ]


@pytest.mark.parametrize("text", ["", " \n\n\f ", "```\ncode\n```"])
def test_nothing_has_no_chapters(text: str) -> None:
    assert chapters(text, markdown=True) == []


words = st.text("ab.!? \n#", max_size=300) | st.text(max_size=60)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(words, st.integers(5, 40))
def test_every_word_is_spoken_once_and_no_piece_is_too_long(text: str, most: int) -> None:
    pieces = [piece for chapter in chapters(text, markdown=False, piece_chars=most) for piece in chapter.pieces]
    assert all(0 < len(piece.text) <= most for piece in pieces)
    assert "".join("".join(piece.text for piece in pieces).split()) == "".join(text.replace("\f", " ").split())


#: Where a pattern that goes back and forth would never come to an end; it would hold up all other threads, too.
HOSTILE = """
from echo.jobs.book import chapters
for text in (
    "# a" + " " * 200_000 + "x",
    "# a" + "#" * 200_000 + "x",
    "# a" + " #" * 100_000 + "x",
    "`" * 200_000 + "\\nx",
    "\\n".join("`" * length for length in range(600, 2, -1)) + "\\nx",
    "~~~\\nx\\n```\\n" * 20_000 + "x",
    "a\\n---\\n" * 30_000,
    "a\\n" + " " * 200_000 + "b",
    "a" * 200_000,
):
    assert chapters(text, markdown=True)
"""


def test_no_text_takes_long_to_split() -> None:
    # In a process of its own, because nothing else could end it.
    subprocess.run([sys.executable, "-c", HOSTILE], cwd=ROOT, check=True, timeout=PATIENCE_S)


def test_hashes_at_the_end_of_a_heading_are_no_part_of_it_but_those_of_a_word_are() -> None:
    titles = [chapter.title for chapter in chapters("# One ##\n\nx\n\n## C#\n\nx\n\n# Two #  \n\nx", markdown=True)]
    assert titles == ["One", "C#", "Two"]


def test_a_fence_ends_with_one_that_is_as_long_and_none_that_is_open_swallows_the_rest() -> None:
    text = "Before.\n\n````\nx\n```\ny\n````\n\nBetween.\n\n```\nAfter."
    (chapter,) = chapters(text, markdown=True)
    spoken = " ".join(piece.text for piece in chapter.pieces)
    assert "x" not in spoken
    assert "y" not in spoken
    assert "Between." in spoken
    assert "After." in spoken
