"""When the Inworld socket speaks what it has been sent."""

from __future__ import annotations

import re

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
    "text", ["See Dr. Who", "J. R. R. Tolkien", "e.g. this", "3. Item", "(Mr. Bean", "v1.2 is out", "*he sits. Then*"]
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


def test_reaching_the_threshold_prefers_the_end_of_a_clause_to_that_of_a_word() -> None:
    assert TextBuffer(BufferRules(threshold=12)).append("one, two three fo", 0.0) == "one,"


def test_a_word_longer_than_the_threshold_is_spoken_when_it_is_over() -> None:
    buffer = TextBuffer(BufferRules(threshold=5))
    assert _feed(buffer, "Super", "cali", "fragilistic", " yes") == ["Supercalifragilistic"]


def test_a_mark_is_not_cut_at_the_threshold() -> None:
    buffer = TextBuffer(BufferRules(threshold=12))
    assert _feed(buffer, "So *he turns ", "away slowly* he ", "said") == ["So", "*he turns away slowly* he"]
    assert buffer.flush() == "said"


def test_a_mark_that_does_not_close_is_spoken_at_a_thousand_characters() -> None:
    buffer = TextBuffer(BufferRules(threshold=12))
    assert buffer.append("*never closed " + "word " * 194, 0.0) == ""
    spoken = buffer.append("and then so", 1.0), buffer.append("me more", 2.0)
    assert spoken == ("", ("*never closed " + "word " * 194 + "and then some"))
    assert buffer.flush() == "more"


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
@given(rules=_RULES, pieces=st.lists(st.text(alphabet="ab1 .!?\"'*\n", max_size=12), max_size=20))
def test_nothing_is_lost_or_doubled(rules: BufferRules, pieces: list[str]) -> None:
    buffer = TextBuffer(rules)
    spoken = [buffer.append(piece, 0.0) for piece in pieces]
    spoken = [text for text in [*spoken, buffer.flush()] if text]
    written = "".join(pieces)
    letters = "".join(char for char in written if char.isalnum())
    assert "".join(char for char in "".join(spoken) if char.isalnum()) == letters
    assert all(text == text.strip() for text in spoken)
    if not rules.phrases:
        assert [part for text in spoken for part in _words(text)] == _words(written)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text)
