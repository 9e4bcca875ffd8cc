"""How IndexTTS-2's adapter checks options and emotions; the model itself is in another environment."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from tests.unit.engines.remote.adapters import adapter

SORROW = [0.0, 0.0, 0.5, 0.0, 0.0, 0.2, 0.0, 0.0]


@pytest.fixture(scope="module")
def indextts() -> Iterator[ModuleType]:
    with adapter("indextts") as module:
        yield module


def test_options_that_are_not_given_have_their_defaults(indextts: ModuleType) -> None:
    values = indextts.checked(indextts.OPTIONS, {"temperature": 1, "top_k": 0, "num_beams": None})
    assert values == {
        **{"temperature": 1.0, "top_p": 0.8, "top_k": 0, "num_beams": 3, "repetition_penalty": 10.0},
        **{"max_mel_tokens": 1500, "max_text_tokens_per_segment": 120},
    }
    assert isinstance(values["temperature"], float)  # transformers takes no other


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"temperature": 0}, "temperature: must be a number from 0.1 to 2"),
        ({"top_k": 5.0}, "top_k: must be an integer from 0 to 100"),
        ({"num_beams": True}, "num_beams: must be an integer from 1 to 10"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty: must be a number from 1 to 20"),
        ({"max_mel_tokens": 1816}, "max_mel_tokens: must be an integer from 50 to 1815"),
        ({"cfg_weight": 0.5}, "cfg_weight: there is no such option; there are temperature, "),
    ],
)
def test_a_wrong_option_is_named(indextts: ModuleType, given: dict[str, Any], message: str) -> None:
    with pytest.raises(sys.modules["child"].Refused, match=message) as caught:
        indextts.checked(indextts.OPTIONS, given)
    assert caught.value.code == "bad_option"


@pytest.mark.parametrize(
    ("given", "clip"),
    [
        ({}, False),
        ({}, True),
        ({"emo_alpha": 0.5, "use_random": True, "emo_text": "sad"}, False),
        ({"emo_vector": SORROW, "use_random": True}, False),
        ({"use_emo_text": True, "emo_text": "sad"}, False),
    ],
)
def test_one_emotion_is_taken(indextts: ModuleType, given: dict[str, Any], clip: bool) -> None:
    indextts.check_emotion({**indextts.EMOTION, **given}, clip=clip)


@pytest.mark.parametrize(
    ("given", "clip", "message"),
    [
        ({"emo_vector": SORROW}, True, "emo_vector: there is an emotion already, by emo_audio_prompt"),
        ({"emo_vector": SORROW, "use_emo_text": True}, False, "use_emo_text: .* already, by emo_vector"),
        ({"use_emo_text": True}, True, "use_emo_text: .* already, by emo_audio_prompt"),
        ({"emo_vector": SORROW[:7]}, False, "emo_vector: this is no value"),
        ({"emo_vector": [*SORROW[:7], 1.1]}, False, "emo_vector: this is no value"),
        ({"emo_vector": [*SORROW[:7], float("nan")]}, False, "emo_vector: this is no value"),
        ({"emo_vector": [*SORROW[:7], True]}, False, "emo_vector: this is no value"),
        ({"emo_alpha": -0.1}, False, "emo_alpha: this is no value"),
        ({"use_emo_text": 1}, False, "use_emo_text: this is no value"),
        ({"emo_text": 1}, False, "emo_text: this is no value"),
    ],
)
def test_a_wrong_or_a_second_emotion_is_named(
    indextts: ModuleType, given: dict[str, Any], clip: bool, message: str
) -> None:
    with pytest.raises(sys.modules["child"].Refused, match=message) as caught:
        indextts.check_emotion({**indextts.EMOTION, **given}, clip=clip)
    assert caught.value.code == "bad_option"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"options": {"language": "fr"}}, "language must be zh, en or es"),
        ({"options": {"language": True}}, "language must be zh, en or es"),
        ({"options": {"deepspeed": 1}}, "deepspeed must be true or false"),
        ({"options": {"cuda_kernel": "yes"}}, "cuda_kernel must be true or false"),
        ({"options": {"preload": 5}}, "preload must be the path of a file"),
        ({"options": {"speed": 1}}, "speed: there is no such option"),
        ({"options": {"temperature": 9}}, "temperature: must be a number"),
        ({"dtype": "bfloat16"}, "dtype: IndexTTS-2 computes in float32 or float16"),
        ({"dtype": "float16"}, "dtype: float16 needs a GPU"),
    ],
)
def test_a_mistake_in_the_engines_table_is_named(indextts: ModuleType, table: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, sys.modules["child"].Refused), match=message):
        indextts.Adapter().load({"model": "", "device": "cpu", "dtype": "", "options": {}} | table)
