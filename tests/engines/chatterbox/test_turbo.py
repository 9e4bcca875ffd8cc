"""Chatterbox-Turbo on a tiny random checkpoint, whose voice and text decide how many tokens it says."""

from __future__ import annotations

import numpy as np
import pytest

from tests.engines.chatterbox.conftest import RATE, TOKEN, Checkpoints, clip
from tests.engines.process import EngineProcess, RefusedError, Speech

TEXT = "Nothing is heard so well as this."
#: What the package puts after the tokens of the model.
SILENCE = 3
OTHER = {
    "top_p": 0.3,
    "top_k": 5,
    "s3gen_steps": 5,
    "temperature": 0.3,
    "repetition_penalty": 1.9,
    "chunk_size": 7,
    "first_chunk_size": 5,
    "continuation_chunk_size": 9,
}


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and bool((one == other).all())


@pytest.fixture(scope="module")
def plain(turbo: EngineProcess) -> Speech:
    """In the checkpoint's voice and with no options."""
    return turbo.speak(TEXT)


def test_it_says_what_it_is(turbo: EngineProcess) -> None:
    assert (turbo.ready.name, turbo.ready.sample_rate, turbo.ready.license) == ("chatterbox-turbo", RATE, "MIT")
    assert turbo.ready.limits.clip_min_s > 5
    assert {option.name for option in turbo.ready.options} == OTHER.keys()


def test_its_tokens_are_those_of_the_package(checkpoints: Checkpoints) -> None:
    for fact in checkpoints.facts["turbo"]:
        assert fact["adapter"] == fact["package"][:-SILENCE]


def test_a_text_that_is_too_long_is_cut_off_and_says_so(checkpoints: Checkpoints) -> None:
    assert checkpoints.facts["cut off"] == {"tokens": 10, "truncated": True}


def test_chunks_have_as_many_samples_as_the_whole(turbo: EngineProcess, checkpoints: Checkpoints) -> None:
    """With the checkpoint's own voice, that of the package's speech."""
    whole = turbo.speak(TEXT, chunk_size=100)
    assert whole.sizes == [checkpoints.facts["turbo"][0]["samples"]]
    assert whole.done.stats.tokens == sum(whole.sizes) // TOKEN - SILENCE
    streamed = turbo.speak(TEXT, first_chunk_size=6, continuation_chunk_size=10)
    assert sum(streamed.sizes) == sum(whole.sizes)
    assert streamed.sizes[:3] == [2 * TOKEN, 10 * TOKEN, 10 * TOKEN]
    assert np.isfinite(streamed.samples).all()


def test_seed_and_voice_decide(turbo: EngineProcess, plain: Speech) -> None:
    turbo.voice("anna", clip(1), RATE)
    anna = turbo.speak(TEXT, "anna")
    assert not same(plain.samples, anna.samples)
    assert same(turbo.speak(TEXT).samples, plain.samples)
    assert same(turbo.speak(TEXT, "anna").samples, anna.samples)
    assert not same(turbo.speak(TEXT, seed=1).samples, plain.samples)


@pytest.mark.parametrize("name", OTHER)
def test_an_option_reaches_the_engine(turbo: EngineProcess, plain: Speech, name: str) -> None:
    assert not same(plain.samples, turbo.speak(TEXT, **{name: OTHER[name]}).samples)


@pytest.mark.parametrize("name", ["cfg_weight", "exaggeration", "min_p"])
def test_what_turbo_would_ignore_is_refused(turbo: EngineProcess, name: str) -> None:
    with pytest.raises(RefusedError, match=f"{name}: there is no such option") as caught:
        turbo.speak(TEXT, **{name: 0.5})
    assert caught.value.code == "bad_option"


def test_a_short_clip_is_refused(turbo: EngineProcess) -> None:
    turbo.voice("long enough", clip(1, turbo.ready.limits.clip_min_s, 44_100), 44_100)
    with pytest.raises(RefusedError, match="longer than 5 seconds") as caught:
        turbo.voice("short", clip(1, 4.0), RATE)
    assert caught.value.code == "voice_rejected"
