"""Captions: where sentences are cut, and what the files look like."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echo.text.captions import (
    LINE_CHARACTERS,
    LINES,
    LONGEST_S,
    SHORTEST_S,
    Caption,
    CaptionFormat,
    captions,
    written,
)
from echo.text.times import Timed


def spoken(text: str, word_s: float = 0.3, start_s: float = 0.0) -> list[Timed]:
    """The words of a text, one after the other without pauses."""
    words = text.split()
    return [Timed(word, start_s + n * word_s, start_s + (n + 1) * word_s) for n, word in enumerate(words)]


def shown(text: str, word_s: float = 0.3) -> list[str]:
    return ["|".join(caption.lines) for caption in captions(spoken(text, word_s))]


def test_every_sentence_is_a_caption() -> None:
    assert shown("Dr. Who came at 3 p.m. today. Really? “Yes!” she said. Go on") == [
        "Dr. Who came at 3 p.m. today.",
        "Really?",
        "“Yes!”",
        "she said.",
        "Go on",
    ]


def test_a_caption_does_not_stand_over_a_long_pause() -> None:
    words = [*spoken("Three,"), *spoken("two,", start_s=1.5), *spoken("one.", start_s=2.0)]
    assert [caption.lines for caption in captions(words)] == [("Three,",), ("two, one.",)]


def test_a_long_line_becomes_two_of_about_the_same_length() -> None:
    assert shown("The rain has stopped and the streets are shining in the light.") == [
        "The rain has stopped and the|streets are shining in the light."
    ]


def test_a_long_sentence_is_cut_at_a_comma_where_it_has_one() -> None:
    text = "When the ship came back, nobody was standing on the pier, and the captain looked at his watch for a while."
    assert shown(text, 0.2) == [
        "When the ship came back,|nobody was standing on the pier,",
        "and the captain looked|at his watch for a while.",
    ]


def test_a_long_sentence_without_a_comma_is_cut_in_the_middle() -> None:
    first, second = captions(spoken("word " * 20, 0.2))
    assert abs(sum(map(len, first.lines)) - sum(map(len, second.lines))) <= len("word ")


def test_what_takes_longer_than_seven_seconds_is_cut() -> None:
    assert shown("So slow that it hurts", 2.0) == ["So slow that", "it hurts"]
    (caption,) = captions([Timed("Aaah", 1.0, 12.0)])
    assert (caption.start_s, caption.end_s) == (1.0, 8.0)


def test_a_word_longer_than_a_line_is_cut() -> None:
    word = "x" * 100
    (first, second) = captions([Timed(word, 0.0, 10.0)])
    assert [len(line) for line in (*first.lines, *second.lines)] == [42, 42, 16]
    assert (second.start_s, second.end_s) == pytest.approx((4.2, 10.0))


def test_a_short_caption_stays_until_it_can_be_seen_or_the_next_one_comes() -> None:
    alone = captions([Timed("Yes.", 1.0, 1.2)])[0]
    assert alone.end_s == pytest.approx(1.0 + SHORTEST_S)
    first, second = captions([Timed("Yes.", 1.0, 1.2), Timed("No.", 1.5, 3.0)])
    assert (first.end_s, second.end_s) == (1.5, 3.0)


@pytest.mark.slow
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=("Z", "C")), min_size=1, max_size=60),
            st.floats(0, 3),
            st.floats(0, 2),
        ),
        max_size=40,
    )
)
def test_nothing_is_lost_and_all_limits_hold(given_words: list[tuple[str, float, float]]) -> None:
    words, now_s = [], 0.0
    for text, length_s, pause_s in given_words:
        words.append(Timed(text, now_s, now_s + length_s))
        now_s += length_s + pause_s
    found = captions(words)
    told = "".join(line for caption in found for line in caption.lines).replace(" ", "")
    assert told == "".join(word.text for word in words)
    for caption in found:
        assert 1 <= len(caption.lines) <= LINES
        assert all(1 <= len(line) <= LINE_CHARACTERS for line in caption.lines)
        assert 0 <= caption.end_s - caption.start_s <= LONGEST_S + 1e-9
    for caption, following in pairwise(found):
        assert caption.end_s <= following.start_s


FOUND = [Caption(("A <b> & c", "--> d"), 0.0, 1.0004), Caption(("End.",), 3661.5, 36_000.0)]


def test_a_subrip_file_numbers_its_captions() -> None:
    assert written(FOUND, CaptionFormat.SRT) == (
        "1\n00:00:00,000 --> 00:00:01,000\nA <b> & c\n--> d\n\n2\n01:01:01,500 --> 10:00:00,000\nEnd.\n"
    )


def test_a_webvtt_file_has_a_head_and_escapes_markup() -> None:
    assert written(FOUND, CaptionFormat.VTT) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\nA &lt;b&gt; &amp; c\n--&gt; d\n\n"
        "01:01:01.500 --> 10:00:00.000\nEnd.\n"
    )


def test_without_words_a_file_has_no_captions() -> None:
    assert written(captions([]), CaptionFormat.SRT) == ""
    assert written(captions([]), CaptionFormat.VTT) == "WEBVTT\n"
