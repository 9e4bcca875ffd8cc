"""Spans of characters: without a gap, whatever the text and its times."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compat.elevenlabs.alignment import Timeline, in_seconds, tiled
from echo.session import PassageDone

times = st.floats(0, 100) | st.none()


def done(source: str, start_s: float, end_s: float, speech: tuple[float, float] | None = None) -> PassageDone:
    first, last = speech or (start_s, end_s)
    return PassageDone(
        index=0,
        source=source,
        start_s=start_s,
        end_s=end_s,
        speech_start_s=first,
        speech_end_s=last,
        flushed=False,
    )


def test_silence_belongs_to_the_blank_before_the_words_and_after_them() -> None:
    spans = tiled(" ab. ", 1000, 2000, 1.2, 1.8)
    assert spans.starts_ms == [1000, 1200, 1400, 1600, 1800]
    assert spans.durations_ms == [200, 200, 200, 200, 200]


def test_without_a_blank_it_belongs_to_the_first_character_and_the_last_mark() -> None:
    spans = tiled("ab.", 0, 1000, 0.2, 0.8)
    assert spans.starts_ms == [0, 400, 600]
    assert spans.durations_ms == [400, 200, 400]


def test_a_second_blank_is_no_silence() -> None:
    assert tiled("  a  ", 0, 1000, 0.25, 0.75).durations_ms == [250, 0, 500, 250, 0]


@given(text=st.text(max_size=30), start=st.integers(0, 50_000), length=st.integers(0, 50_000), first=times, last=times)
def test_spans_always_cover_the_audio(
    text: str, start: int, length: int, first: float | None, last: float | None
) -> None:
    spans = tiled(text, start, start + length, first, last)
    assert len(spans.starts_ms) == len(spans.durations_ms) == len(spans.chars) == len(text)
    assert all(duration >= 0 for duration in spans.durations_ms)
    if text:
        assert spans.starts_ms[0] == start
        assert sum(spans.durations_ms) == length


PASSAGES = [("Well,", 0.0, 0.5), (" Mr. Smith is here.", 0.5, 2.0004), ("Hello. ", 2.0004, 2.7)]


@pytest.mark.parametrize("restart", [True, False])
def test_passages_follow_each_other(restart: bool) -> None:
    timeline = Timeline(restart=restart)
    spans = [timeline.passage(done(*passage)) for passage in PASSAGES]
    # The blank between the first two is sent with the first one: there the word is complete.
    assert [each.chars for each in spans] == ["Well, ", "Mr. Smith is here. ", "Hello. "]
    ends = [each.edges_ms[-1] for each in spans]
    assert [each.edges_ms[0] for each in spans] == ([0, 0, 0] if restart else [0, 500, 2000])
    assert ends == ([500, 1500, 700] if restart else [500, 2000, 2700])


def test_what_a_failure_has_left_between_two_passages_is_not_lost() -> None:
    timeline = Timeline(restart=True)
    timeline.passage(done("One. ", 0.0, 1.0))
    assert timeline.passage(done("Three. ", 1.5, 2.5)).edges_ms[-1] == 1500


def test_a_whole_text_is_in_seconds() -> None:
    assert in_seconds("ab", 1.0, 0.0, 1.0) == {
        "characters": ["a", "b"],
        "character_start_times_seconds": [0.0, 0.5],
        "character_end_times_seconds": [0.5, 1.0],
    }
