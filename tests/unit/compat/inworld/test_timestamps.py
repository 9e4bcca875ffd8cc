"""Estimated word and character times."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compat.inworld.schemas import TimestampType
from compat.inworld.timestamps import Span, speech_span, timestamp_info

WORD, CHARACTER = TimestampType.WORD, TimestampType.CHARACTER


def test_words_keep_their_punctuation_and_share_the_span_by_length() -> None:
    info = timestamp_info(WORD, "  Hi,   longer word. ", Span(1.0, 2.8))
    assert info == {
        "wordAlignment": {
            "words": ["Hi,", "longer", "word."],
            "wordStartTimeSeconds": [1.0, 1.6, 2.3],
            "wordEndTimeSeconds": [1.3, 2.2, 2.8],
        },
        "timestamps_method": "estimate",
    }


def test_characters_include_blanks() -> None:
    info = timestamp_info(CHARACTER, "a b", Span(0.0, 0.3))
    assert info == {
        "characterAlignment": {
            "characters": ["a", " ", "b"],
            "characterStartTimeSeconds": [0.0, 0.1, 0.2],
            "characterEndTimeSeconds": [0.1, 0.2, 0.3],
        },
        "timestamps_method": "estimate",
    }


def test_nothing_is_returned_when_nothing_was_asked_for() -> None:
    assert timestamp_info(TimestampType.NONE, "Hello.", Span(0.0, 1.0)) is None


def test_the_span_is_where_speech_was_heard() -> None:
    assert speech_span(2.0, 0.25, 1.75, 2.0) == Span(0.25, 1.75)


def test_the_span_follows_a_changed_speed() -> None:
    assert speech_span(2.0, 0.5, 1.5, 1.0) == Span(0.25, 0.75)


def test_silence_counts_as_speech_from_end_to_end() -> None:
    assert speech_span(2.0, None, None, 2.0) == Span(0.0, 2.0)


def test_no_audio_is_an_empty_span() -> None:
    assert speech_span(0.0, None, None, 0.0) == Span(0.0, 0.0)


@pytest.mark.slow
@settings(max_examples=200, derandomize=True, deadline=None)
@given(
    text=st.text(max_size=80),
    kind=st.sampled_from([WORD, CHARACTER]),
    audio_s=st.floats(0.001, 100),
    start=st.floats(0, 1),
    end=st.floats(0, 1),
    speed=st.floats(0.25, 4),
)
def test_times_are_ordered_and_within_the_audio(
    text: str, kind: TimestampType, audio_s: float, start: float, end: float, speed: float
) -> None:
    duration_s = audio_s / speed
    info = timestamp_info(kind, text, speech_span(audio_s, start * audio_s, end * audio_s, duration_s))
    assert info is not None
    (arrays,) = (value for name, value in info.items() if name != "timestamps_method")
    assert isinstance(arrays, dict)
    items, starts, ends = arrays.values()
    assert len(items) == len(starts) == len(ends)
    merged = list(itertools.chain.from_iterable(zip(starts, ends, strict=True)))
    assert merged == sorted(merged)
    assert all(0 <= second <= duration_s for second in merged)


@pytest.mark.parametrize("kind", [WORD, CHARACTER])
def test_an_empty_text_has_empty_arrays(kind: TimestampType) -> None:
    info = timestamp_info(kind, "  ", Span(0.0, 1.0))
    assert info is not None
    (arrays,) = (value for name, value in info.items() if name != "timestamps_method")
    assert isinstance(arrays, dict)
    assert list(arrays.values()) == [[], [], []]
