"""How Chatterbox's adapter checks options and weighs tokens; the model itself is in another environment."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.unit.engines.remote.adapters import adapter

#: Sampling that leaves everything as it is.
PLAIN = {"temperature": 1.0, "repetition_penalty": 1.0, "top_p": 1.0}
LOGITS = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
NONE = torch.zeros(4, dtype=torch.bool)


@pytest.fixture(scope="module")
def chatterbox() -> Iterator[ModuleType]:
    with adapter("chatterbox") as module:
        yield module


def weighed(chatterbox: ModuleType, seen: torch.Tensor = NONE, *, last: bool = False, **values: float) -> list[float]:
    result: torch.Tensor = chatterbox.weigh(LOGITS, seen, PLAIN | values, penalty_last=last)
    return result.tolist()


@pytest.mark.parametrize(
    ("values", "weights"),
    [
        ({}, [0.5, 0.3, 0.15, 0.05]),
        ({"temperature": 0.5}, [0.25, 0.09, 0.0225, 0.0025]),
        ({"top_k": 2}, [0.5, 0.3, 0, 0]),
        ({"top_k": 4}, [0.5, 0.3, 0.15, 0.05]),
        ({"top_k": 1000}, [0.5, 0.3, 0.15, 0.05]),
        ({"min_p": 0.2}, [0.5, 0.3, 0.15, 0]),
        ({"min_p": 1.0}, [1, 0, 0, 0]),
        ({"top_p": 0.79}, [0.5, 0.3, 0, 0]),
        ({"top_p": 0.81}, [0.5, 0.3, 0.15, 0]),
        ({"top_p": 0.0}, [1, 0, 0, 0]),
        ({"min_p": 0.2, "top_p": 0.9}, [0.5, 0.3, 0.15, 0]),  # 0.8 of what min_p has left is less than 0.9
        ({"temperature": 0.5, "top_p": 0.9}, [0.25, 0.09, 0, 0]),
    ],
)
def test_tokens_are_weighed(chatterbox: ModuleType, values: dict[str, float], weights: list[float]) -> None:
    expected = [weight / sum(weights) for weight in weights]
    assert weighed(chatterbox, **values) == pytest.approx(expected, abs=1e-6)


def test_a_token_that_was_spoken_becomes_less_likely_whatever_its_logit(chatterbox: ModuleType) -> None:
    seen = torch.tensor([True, False, False, True])
    for offset in (0.0, 10.0):  # negative logits, and positive ones
        result = chatterbox.weigh(LOGITS + offset, seen, PLAIN | {"repetition_penalty": 1.5})
        ratios = result / LOGITS.exp()
        assert ratios[0] < ratios[1]
        assert ratios[3] < ratios[1]
        assert ratios[1] == pytest.approx(ratios[2])


def test_turbo_penalises_what_the_other_options_have_left(chatterbox: ModuleType) -> None:
    seen = torch.tensor([True, False, False, False])
    first = weighed(chatterbox, seen, repetition_penalty=2.0, top_k=1)
    assert first == [0, 1, 0, 0]  # the penalty has made the likeliest the second
    assert weighed(chatterbox, seen, last=True, repetition_penalty=2.0, top_k=1) == [1, 0, 0, 0]


def test_options_that_are_not_given_have_their_defaults(chatterbox: ModuleType) -> None:
    english = chatterbox.checked(chatterbox.OPTIONS["english"], {"chunk_size": 10, "cfg_weight": 0, "min_p": None})
    assert english == {
        **{"exaggeration": 0.5, "cfg_weight": 0, "min_p": 0.05, "top_p": 1.0, "s3gen_steps": 10},
        **{"temperature": 0.8, "repetition_penalty": 1.2},
        **{"chunk_size": 10, "first_chunk_size": None, "continuation_chunk_size": None},
    }
    turbo = chatterbox.checked(chatterbox.OPTIONS["turbo"], {})
    assert (turbo["top_p"], turbo["top_k"], turbo["s3gen_steps"]) == (0.95, 1000, 2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"chunk_size": 4}, "chunk_size: must be an integer from 5 to 100"),
        ({"chunk_size": 101}, "chunk_size: must be an integer from 5 to 100"),
        ({"chunk_size": 10.0}, "chunk_size: must be an integer from 5 to 100"),
        ({"s3gen_steps": True}, "s3gen_steps: must be an integer from 1 to 20"),
        ({"temperature": 0}, "temperature: must be a number from 0.05 to 5"),
        ({"temperature": "0.5"}, "temperature: must be a number from 0.05 to 5"),
        ({"cfg_weight": float("nan")}, "cfg_weight: must be a number from 0 to 1"),
        ({"exaggeration": -0.1}, "exaggeration: must be a number from 0 to 2"),
        ({"top_k": 5}, "top_k: there is no such option; there are exaggeration, cfg_weight, "),
    ],
)
def test_a_wrong_option_is_named(chatterbox: ModuleType, given: dict[str, Any], message: str) -> None:
    with pytest.raises(sys.modules["child"].Refused, match=message) as caught:
        chatterbox.checked(chatterbox.OPTIONS["english"], given)
    assert caught.value.code == "bad_option"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"options": {"variant": "nano"}}, "variant must be english or turbo"),
        ({"options": {"watermark": 1}}, "watermark must be true or false"),
        ({"options": {"speed": 1}}, "speed: there is no such option"),
        ({"options": {"variant": "turbo", "cfg_weight": 0.5}}, "cfg_weight: there is no such option"),
        ({"options": {"temperature": 9}}, "temperature: must be a number"),
        ({"dtype": "float16"}, "dtype: Chatterbox computes in float32"),
    ],
)
def test_a_mistake_in_the_engines_table_is_named(chatterbox: ModuleType, table: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, sys.modules["child"].Refused), match=message):
        chatterbox.Adapter().load({"model": "", "device": "cpu", "dtype": "", "options": {}} | table)
