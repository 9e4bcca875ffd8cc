"""When text that is still being written is spoken."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echo.text import EARLY, SpeakRules
from echo.text.buffer import MAX_BUFFERED
from echo.text.buffer import TextBuffer as Buffer


class TextBuffer:
    """A buffer whose passages are their texts, those of one piece joined."""

    def __init__(self, rules: SpeakRules) -> None:
        self.buffer = Buffer(rules)

    @property
    def deadline(self) -> float | None:
        return self.buffer.deadline

    def append(self, text: str, now: float) -> str:
        return "".join(passage.source for passage in self.buffer.append(text, now)).strip()

    def flush(self) -> str:
        return "".join(passage.source for passage in self.buffer.flush()).strip()


def _feed(buffer: TextBuffer, *pieces: str) -> list[str]:
    return [spoken for at, piece in enumerate(pieces) if (spoken := buffer.append(piece, float(at)))]


def test_text_waits_for_a_flush_by_default() -> None:
    buffer = TextBuffer(SpeakRules())
    assert _feed(buffer, "Hello. ", "How are you? ", "Fine") == []
    assert buffer.flush() == "Hello. How are you? Fine"
    assert buffer.flush() == ""


def test_a_phrase_is_spoken_at_once_in_auto_mode() -> None:
    buffer = TextBuffer(SpeakRules(pieces=True))
    assert _feed(buffer, "Hello there", "How are you?") == ["Hello there", "How are you?"]


def test_a_lone_blank_or_mark_waits_for_its_words_in_auto_mode() -> None:
    buffer = TextBuffer(SpeakRules(pieces=True))
    assert _feed(buffer, " ", "“", "Yes,” he said.") == ["“Yes,” he said."]


def test_sentences_are_found_in_raw_tokens() -> None:
    buffer = TextBuffer(SpeakRules(sentences_from=0))
    tokens = ["Mr", ".", " Smith", " paid", " 3", ".", "5", " dollars", ".", " Really", "?!", " Yes", "."]
    assert _feed(buffer, *tokens) == ["Mr. Smith paid 3.5 dollars.", "Really?!"]
    assert buffer.flush() == "Yes."


@pytest.mark.parametrize(
    "text", ["See Dr. Who", "J. R. R. Tolkien", "e.g. this", "3. Item", "(Mr. Bean", "v1.2 is out", "*he sits. Then*"]
)
def test_a_dot_that_ends_no_sentence_is_not_a_boundary(text: str) -> None:
    assert TextBuffer(SpeakRules(sentences_from=0)).append(text, 0.0) == ""


def test_a_sentence_may_end_in_quotes_or_in_another_script() -> None:
    assert TextBuffer(SpeakRules(sentences_from=0)).append('He said "no!" and', 0.0) == 'He said "no!"'
    assert TextBuffer(SpeakRules(sentences_from=0)).append("你好。再", 0.0) == "你好。"


def test_reaching_the_threshold_speaks_up_to_a_sentence_end_and_keeps_the_rest() -> None:
    buffer = TextBuffer(SpeakRules(words_from=(20,)))
    assert _feed(buffer, "One two three. ", "Four fi", "ve six") == ["One two three."]
    assert buffer.flush() == "Four five six"


def test_reaching_the_threshold_without_a_sentence_end_cuts_between_words() -> None:
    buffer = TextBuffer(SpeakRules(words_from=(12,)))
    assert buffer.append("one two three fo", 0.0) == "one two three"
    assert buffer.append("ur", 1.0) == ""
    assert buffer.flush() == "four"


def test_text_that_ends_in_a_mark_is_spoken_whole_at_the_threshold() -> None:
    assert TextBuffer(SpeakRules(words_from=(10,))).append("One. Two. Three.", 0.0) == "One. Two. Three."


def test_reaching_the_threshold_prefers_the_end_of_a_clause_to_that_of_a_word() -> None:
    assert TextBuffer(SpeakRules(words_from=(12,))).append("one, two three fo", 0.0) == "one,"


def test_a_word_longer_than_the_threshold_is_spoken_when_it_is_over() -> None:
    buffer = TextBuffer(SpeakRules(words_from=(5,)))
    assert _feed(buffer, "Super", "cali", "fragilistic", " yes") == ["Supercalifragilistic"]


def test_a_mark_is_not_cut_at_the_threshold() -> None:
    buffer = TextBuffer(SpeakRules(words_from=(12,)))
    assert _feed(buffer, "So *he turns ", "away slowly* he ", "said") == ["So", "*he turns away slowly* he"]
    assert buffer.flush() == "said"


def test_a_mark_that_does_not_close_is_spoken_at_a_thousand_characters() -> None:
    buffer = TextBuffer(SpeakRules(words_from=(12,)))
    assert buffer.append("*never closed " + "word " * 194, 0.0) == ""
    spoken = buffer.append("and then so", 1.0), buffer.append("me more", 2.0)
    assert spoken == ("", ("*never closed " + "word " * 194 + "and then some"))
    assert buffer.flush() == "more"


def test_a_thousand_characters_are_spoken_whatever_the_threshold() -> None:
    buffer = TextBuffer(SpeakRules(words_from=(9_999,)))
    assert buffer.append("word " * 199, 0.0) == ""
    assert len(buffer.append("word " * 10, 1.0)) > 990


def test_the_delay_counts_from_the_last_text_and_needs_something_to_speak() -> None:
    buffer = TextBuffer(SpeakRules(max_delay_s=3.0))
    assert buffer.deadline is None
    buffer.append("   ", 1.0)
    assert buffer.deadline is None
    buffer.append("Hello", 2.0)
    buffer.append(" you", 4.0)
    assert buffer.deadline == 7.0
    buffer.flush()
    assert buffer.deadline is None


def test_no_delay_means_no_deadline() -> None:
    buffer = TextBuffer(SpeakRules())
    buffer.append("Hello", 0.0)
    assert buffer.deadline is None


@pytest.mark.parametrize("filler", [" ", ".", "(. "])
def test_what_cannot_be_spoken_does_not_pile_up(filler: str) -> None:
    buffer = TextBuffer(SpeakRules())
    for _ in range(50):
        buffer.append(filler * 300, 0.0)
    assert len(buffer.append("x", 0.0) + buffer.flush()) <= 3 * MAX_BUFFERED


_RULES = st.builds(
    SpeakRules,
    words_from=st.lists(st.integers(1, 40), min_size=1, max_size=3).map(tuple),
    pieces=st.booleans(),
    hold_word=st.booleans(),
    sentences_from=st.none() | st.integers(0, 20),
    clauses_from=st.none() | st.integers(0, 20),
    first_clause_from=st.none() | st.integers(0, 20),
    eager=st.booleans(),
    single=st.booleans(),
)


@pytest.mark.slow
@settings(max_examples=200, derandomize=True, deadline=None)
@given(rules=_RULES, pieces=st.lists(st.text(alphabet="ab1 .!?\"'*\n", max_size=12), max_size=20))
def test_nothing_is_lost_or_doubled(rules: SpeakRules, pieces: list[str]) -> None:
    buffer = TextBuffer(rules)
    spoken = [buffer.append(piece, 0.0) for piece in pieces]
    spoken = [text for text in [*spoken, buffer.flush()] if text]
    written = "".join(pieces)
    letters = "".join(char for char in written if char.isalnum())
    assert "".join(char for char in "".join(spoken) if char.isalnum()) == letters
    assert all(text == text.strip() for text in spoken)
    if not rules.pieces:
        assert [part for text in spoken for part in _words(text)] == _words(written)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


def _passages(rules: SpeakRules, *pieces: str) -> list[str]:
    buffer = Buffer(rules)
    due = [passage for piece in pieces for passage in buffer.append(piece, 0.0)]
    return [passage.source for passage in [*due, *buffer.flush()]]


def test_the_first_clause_is_spoken_early_and_whole_sentences_after_it() -> None:
    pieces = ["Well, ", "I think so, yes", ". And now, ", "the rest. ", "Bye"]
    assert _passages(EARLY, *pieces) == ["Well,", " I think so, yes.", " And now, the rest.", " Bye"]


def test_sentences_and_clauses_wait_until_enough_is_buffered() -> None:
    rules = SpeakRules(sentences_from=15, clauses_from=25, eager=True)
    assert _passages(rules, "Hello. ", "How are you?", " ", "Well") == ["Hello. How are you?", " Well"]
    assert _passages(rules, "When it rains, ", "we stay at home") == ["When it rains,", " we stay at home"]


def test_a_single_sentence_is_a_passage() -> None:
    rules = SpeakRules(sentences_from=0, single=True)
    assert _passages(rules, "One. Two! ... Three? Fo", "ur. ...") == ["One.", " Two!", " ... Three?", " Four."]


def test_every_passage_has_a_length_of_its_own() -> None:
    rules = SpeakRules(words_from=(5, 12))
    assert _passages(rules, "One two ", "three ", "four five six") == ["One two ", "three four five ", "six"]


def test_what_can_be_spoken_is_spoken_when_asked_for() -> None:
    buffer = Buffer(SpeakRules())
    buffer.append("One two, three fo", 0.0)
    assert [passage.source for passage in buffer.speakable_now()] == ["One two,"]
    assert buffer.speakable_now() == []
    assert [passage.source for passage in buffer.flush()] == [" three fo"]


def test_a_piece_may_end_in_half_a_word() -> None:
    assert _passages(SpeakRules(pieces=True, hold_word=True), "Hello the", "re. ", "You") == [
        "Hello ",
        "there. ",
        "You",
    ]


def test_a_whole_text_is_one_passage_however_long_it_is() -> None:
    buffer = Buffer(SpeakRules(whole=True, sentences_from=0))
    text = "This is a sentence. " * 200
    assert [buffer.append(text[at : at + 7], 0.0) for at in range(0, len(text), 7)] == [[]] * -(-len(text) // 7)
    assert buffer.length == len(text)
    assert buffer.deadline is None
    (passage,) = buffer.flush()
    assert passage.source == text
    assert buffer.length == 0
    assert buffer.flush() == []


CLAUSES = SpeakRules(sentences_from=0, clauses_from=0, single=True)


@settings(max_examples=100, deadline=None)
@given(cuts=st.sets(st.integers(1, 80)))
def test_clauses_are_passages_of_their_own_however_the_text_arrives(cuts: set[int]) -> None:
    text = "Well, it was 3,500 m; nobody (neither he, nor she) went. But why, then? No: not me"
    buffer = Buffer(CLAUSES)
    edges = [0, *sorted(cuts), len(text)]
    passages = [p for a, b in itertools.pairwise(edges) for p in buffer.append(text[a:b], 0.0)]
    passages += buffer.flush()
    assert [passage.source.strip() for passage in passages] == [
        "Well,",
        "it was 3,500 m;",
        "nobody (neither he, nor she) went.",
        "But why,",
        "then?",
        "No:",
        "not me",
    ]


def test_an_abbreviation_that_is_cut_after_its_first_letter_is_not_spoken_in_two() -> None:
    rules = SpeakRules(sentences_from=0, eager=True)
    assert _passages(rules, "He paid for it, e.", "g. with tea. ") == ["He paid for it, e.g. with tea."]
    assert _passages(rules, "They live in the U.", "S. now.") == ["They live in the U.S. now."]
