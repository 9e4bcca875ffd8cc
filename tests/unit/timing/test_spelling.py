"""Words as they were written, found in what the model reads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echo.text import split
from echo.timing.spelling import find_words
from echo.types import ChunkRules, TextRules

SHORT = ChunkRules(max_chars=60, target_s=2, min_s=1, max_s=3)


def chunks_of(source: str) -> list[str]:
    return [chunk.text for chunk in split(source, TextRules(), SHORT)]


def found_in(source: str) -> list[tuple[str, str]]:
    """Words of the source, and what is read for each."""
    chunks = chunks_of(source)
    return [
        (source[word.place : word.end], chunks[index].encode()[word.first : word.last].decode())
        for index, words in enumerate(find_words(source, chunks))
        for word in words
    ]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("Hello there.", [("Hello", "Hello"), ("there.", "there")]),
        ("“HELLO”, she said: go!", [("“HELLO”,", "Hello"), ("she", "she"), ("said:", "said"), ("go!", "go")]),
        ("Well *sighs* no.", [("Well", "Well"), ("no.", "no")]),
        ("Stop. [pause 2s] Go on.", [("Stop.", "Stop"), ("Go", "Go"), ("on.", "on")]),
        ("Grüße an **Zoë** 🙂 bye.", [("Grüße", "Grüße"), ("an", "an"), ("**Zoë**", "Zoë"), ("bye.", "bye")]),
        ("2*3 is it.", [("2*3", "2 times 3"), ("is", "is"), ("it.", "it")]),
        ("[S2] You. [S1] Me.", [("You.", "You"), ("Me.", "Me")]),
        ("cold—warm", [("cold—warm", "Cold, warm")]),
        # What is left out begins as the word after it does, or is like a part of the next one.
        ("*sighs* So be it.", [("So", "So"), ("be", "be"), ("it.", "it")]),
        ("(laughs) Let me.", [("Let", "Let"), ("me.", "me")]),
        ("A *laughs softly* of?", [("A", "A"), ("of?", "of")]),
        ("Is it *sighs* I?", [("Is", "Is"), ("it", "it"), ("I?", "I")]),
        ("Two [whispering softly] why?", [("Two", "Two"), ("why?", "why")]),
        ("Fun. *sighs* Yes. [laughter] Indeed.", [("Fun.", "Fun"), ("Yes.", "Yes"), ("Indeed.", "Indeed")]),
        # A letter and its accent as two characters, as macOS writes them.
        (
            "C'est a\u0300 toi, E\u0301ric.",
            [("C'est", "C'est"), ("a\u0300", "à"), ("toi,", "toi"), ("E\u0301ric.", "Éric")],
        ),
    ],
)
def test_words_are_found_whatever_spelling_has_done(source: str, words: list[tuple[str, str]]) -> None:
    assert found_in(source) == words


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (
            "Room 12, at 5:30 pm.",
            [("Room", "Room"), ("12,", "twelve"), ("at", "at"), ("5:30", "five thirty"), ("pm.", "pee em")],
        ),
        (
            "It has 1,234,567 parts of $5.50.",
            [
                ("It", "It"),
                ("has", "has"),
                ("1,234,567", "one million two hundred and thirty-four thousand five hundred and sixty-seven"),
                ("parts", "parts"),
                ("of", "of"),
                ("$5.50.", "five dollars and fifty cents"),
            ],
        ),
        ("5 %, 3 °C.", [("5", "Five"), ("%,", "percent"), ("3", "three"), ("°C.", "degrees Celsius")]),
        ("The TTS-5 is *sighs* 3rd.", [("The", "The"), ("TTS-5", "tee tee ess five"), ("is", "is"), ("3rd.", "third")]),
    ],
)
def test_words_are_found_where_numbers_are_spelled_out(source: str, words: list[tuple[str, str]]) -> None:
    chunks = [chunk.text for chunk in split(source, TextRules(spell_out=True), ChunkRules())]
    found = [
        (source[word.place : word.end], chunks[index].encode()[word.first : word.last].decode())
        for index, of_chunk in enumerate(find_words(source, chunks, spelled_out=True))
        for word in of_chunk
    ]
    assert found == words


@pytest.mark.parametrize(
    ("source", "marks"),
    [
        ("Fish & chips — or 2 + 3 ... really", {"Fish": ["&"], "chips": ["—"], "2": ["+"], "3": ["..."], "really": []}),
        ("Il dit : bonjour !", {"dit": [":"], "bonjour": ["!"]}),
        # Markup and emoticons are not read.
        ("- one\n- *two* * three 🙂 :-) four\n\n---\n\n# five", {"one": [], "three": [], "four": []}),
    ],
)
def test_marks_that_stand_by_themselves_are_with_the_word_before_them(source: str, marks: dict[str, list[str]]) -> None:
    words = [word for words in find_words(source, chunks_of(source)) for word in words]
    found = {source[word.place : word.end]: [source[start:end] for start, end in word.marks] for word in words}
    assert found | marks == found


def test_every_word_of_a_long_text_is_found_in_its_chunk() -> None:
    source = "The rain has stopped, and we can go out again now. " * 20
    assert len(chunks_of(source)) > 10
    assert [word for word, _ in found_in(source)] == source.split()


@given(st.text(alphabet="abAB .,*[]!ß🙂\n:12", max_size=120))
def test_places_and_bytes_rise_in_any_text(source: str) -> None:
    chunks = chunks_of(source)
    last = -1
    for chunk, words in zip(chunks, find_words(source, chunks), strict=True):
        byte = -1
        for word in words:
            assert last < word.place < word.end <= len(source)
            last = word.chars[-1][0]
            for place, at in word.chars:
                assert word.place <= place < word.end
                assert byte < at < word.last <= len(chunk.encode())
                byte = at
