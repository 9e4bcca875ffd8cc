"""When the Inworld socket speaks what it has been sent."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compat.inworld.buffering import MAX_BUFFERED, BufferRules, TextBuffer


def _feed(buffer: TextBuffer, *pieces: str) -> list[str]:
    return [spoken for at, piece in enumerate(pieces) if (spoken := buffer.append(piece, float(at)))]


def test_text_waits_for_a_flush_by_default() -> None:
    buffer = TextBuffer(BufferRules())
    assert _feed(buffer, "Hello. ", "How are you? ", "Fine") == []
    assert buffer.flush() == "Hello. How are you? Fine"
    assert buffer.flush() == ""


def test_a_phrase_is_spoken_at_once_in_auto_mode() -> None:
    buffer = TextBuffer(BufferRules(phrases=True))
    assert _feed(buffer, "Hello there", "How are you?") == ["Hello there", "How are you?"]


def test_a_lone_blank_or_mark_waits_for_its_words_in_auto_mode() -> None:
    buffer = TextBuffer(BufferRules(phrases=True))
    assert _feed(buffer, " ", "“", "Yes,” he said.") == ["“Yes,” he said."]


def test_sentences_are_found_in_raw_tokens() -> None:
    buffer = TextBuffer(BufferRules(sentences=True))
    tokens = ["Mr", ".", " Smith", " paid", " 3", ".", "5", " dollars", ".", " Really", "?!", " Yes", "."]
    assert _feed(buffer, *tokens) == ["Mr. Smith paid 3.5 dollars.", "Really?!"]
    assert buffer.flush() == "Yes."


@pytest.mark.parametrize(
    "text", ["See Dr. Who", "J. R. R. Tolkien", "e.g. this", "3. Item", "(Mr. Bean", "v1.2 is out"]
)
def test_a_dot_that_ends_no_sentence_is_not_a_boundary(text: str) -> None:
    assert TextBuffer(BufferRules(sentences=True)).append(text, 0.0) == ""


def test_a_sentence_may_end_in_quotes_or_in_another_script() -> None:
    assert TextBuffer(BufferRules(sentences=True)).append('He said "no!" and', 0.0) == 'He said "no!"'
    assert TextBuffer(BufferRules(sentences=True)).append("你好。再", 0.0) == "你好。"


def test_reaching_the_threshold_speaks_up_to_a_sentence_end_and_keeps_the_rest() -> None:
    buffer = TextBuffer(BufferRules(threshold=20))
    assert _feed(buffer, "One two three. ", "Four fi", "ve six") == ["One two three."]
    assert buffer.flush() == "Four five six"


def test_reaching_the_threshold_without_a_sentence_end_cuts_between_words() -> None:
    buffer = TextBuffer(BufferRules(threshold=12))
    assert buffer.append("one two three fo", 0.0) == "one two three"
    assert buffer.append("ur", 1.0) == ""
    assert buffer.flush() == "four"


def test_text_that_ends_in_a_mark_is_spoken_whole_at_the_threshold() -> None:
    assert TextBuffer(BufferRules(threshold=10)).append("One. Two. Three.", 0.0) == "One. Two. Three."


def test_a_word_longer_than_the_threshold_is_spoken_anyway() -> None:
    assert TextBuffer(BufferRules(threshold=5)).append("Supercalifragilistic", 0.0) == "Supercalifragilistic"


def test_a_thousand_characters_are_spoken_whatever_the_threshold() -> None:
    buffer = TextBuffer(BufferRules(threshold=9_999))
    assert buffer.append("word " * 199, 0.0) == ""
    assert len(buffer.append("word " * 10, 1.0)) > 990


def test_the_delay_counts_from_the_last_text_and_needs_something_to_speak() -> None:
    buffer = TextBuffer(BufferRules(max_delay_s=3.0))
    assert buffer.deadline is None
    buffer.append("   ", 1.0)
    assert buffer.deadline is None
    buffer.append("Hello", 2.0)
    buffer.append(" you", 4.0)
    assert buffer.deadline == 7.0
    buffer.flush()
    assert buffer.deadline is None


def test_no_delay_means_no_deadline() -> None:
    buffer = TextBuffer(BufferRules())
    buffer.append("Hello", 0.0)
    assert buffer.deadline is None


@pytest.mark.parametrize("filler", [" ", ".", "(. "])
def test_what_cannot_be_spoken_does_not_pile_up(filler: str) -> None:
    buffer = TextBuffer(BufferRules())
    for _ in range(50):
        buffer.append(filler * 300, 0.0)
    assert len(buffer.append("x", 0.0) + buffer.flush()) <= 3 * MAX_BUFFERED


_RULES = st.builds(
    BufferRules,
    threshold=st.integers(1, 40),
    phrases=st.booleans(),
    sentences=st.booleans(),
)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(rules=_RULES, pieces=st.lists(st.text(alphabet="ab1 .!?\"'\n", max_size=12), max_size=20))
def test_nothing_is_lost_or_doubled(rules: BufferRules, pieces: list[str]) -> None:
    buffer = TextBuffer(rules)
    spoken = [buffer.append(piece, 0.0) for piece in pieces]
    left = buffer.flush()
    letters = "".join(char for char in "".join(pieces) if char.isalnum())
    assert "".join(char for char in "".join([*spoken, left]) if char.isalnum()) == letters
    assert all(text == text.strip() for text in spoken)


def test_a_word_without_an_end_does_not_make_each_further_letter_slower() -> None:
    def seconds(length: int) -> float:
        buffer = TextBuffer(BufferRules(sentences=True))
        buffer.append("a" * length + " ", 0.0)
        start = time.thread_time()
        for _ in range(20):
            buffer.append(". ", 0.0)
            buffer._text = "a" * length + " "
        return time.thread_time() - start

    took = [min(seconds(length) for _ in range(5)) for length in (100, 900)]
    assert took[1] < 30 * max(took[0], 0.0005)  # in proportion: 9 times, by the square: 81
