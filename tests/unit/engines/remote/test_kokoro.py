"""What Kokoro's adapter does with texts and names of voices; the model itself is in another environment."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

from tests.unit.engines.remote.adapters import adapter


@pytest.fixture
def kokoro() -> Iterator[ModuleType]:
    with adapter("kokoro") as module:
        yield module


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Hello there.", ["Hello there."]),
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        (
            "The quick brown fox jumps, over the lazy dog it goes. Then, it rests.",
            ["The quick brown fox jumps,", "over the lazy dog it goes.", "Then, it rests."],
        ),
        ("Well, it is only a short clause that begins this.", ["Well, it is only a short clause that begins this."]),
        ("It costs 3.50 today.", ["It costs 3.50 today."]),
        ("今日は。元気です。", ["今日は。", "元気です。"]),
        ("  ", []),
    ],
)
def test_a_text_is_cut_at_sentences_and_begins_with_a_clause(kokoro: ModuleType, text: str, parts: list[str]) -> None:
    assert kokoro.pieces(text) == parts


def test_voices_are_mixed_by_weight(kokoro: ModuleType) -> None:
    assert kokoro.parse_voice("af_heart") == {"af_heart": 1.0}
    assert kokoro.parse_voice("af_heart*0.6+am_adam * 0.4") == {"af_heart": 0.6, "am_adam": 0.4}


@pytest.mark.parametrize("voice", ["", "af_heart+", "af_heart*0", "af_heart*1.2.3", "af heart", "af_heart*-1"])
def test_a_mixture_that_is_none_is_refused(kokoro: ModuleType, voice: str) -> None:
    with pytest.raises(sys.modules["child"].Refused):
        kokoro.parse_voice(voice)
