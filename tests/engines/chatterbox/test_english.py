"""Chatterbox on a tiny random checkpoint, which says 40 tokens of every text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from echo.engines.remote.messages import Done, Samples
from tests.engines.chatterbox.conftest import RATE, TOKEN, Checkpoints, clip
from tests.engines.process import EngineProcess, RefusedError, Speech, running

TEXT = "Nothing is heard so well as this."
TOKENS = 40
#: Samples of a chunk that are kept for the next.
OVERLAP = 4 * TOKEN
#: A value of each option that is not its default.
OTHER = {
    "exaggeration": 0.0,
    "cfg_weight": 0.9,
    "min_p": 0.5,
    "top_p": 0.5,
    "s3gen_steps": 2,
    "temperature": 0.3,
    "repetition_penalty": 1.9,
    "chunk_size": 7,
    "first_chunk_size": 5,
    "continuation_chunk_size": 9,
}


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and bool((one == other).all())


@pytest.fixture(scope="module")
def plain(english: EngineProcess) -> Speech:
    """With no options."""
    return english.speak(TEXT, "anna")


def test_it_says_what_it_is(english: EngineProcess) -> None:
    ready = english.ready
    assert (ready.name, ready.version, ready.sample_rate) == ("chatterbox", "0.1.7.post2", RATE)
    assert (ready.device, ready.license) == ("cpu", "MIT")
    assert (ready.capabilities.clone, ready.capabilities.named, ready.capabilities.stream) == (True, False, "token")
    assert (ready.limits.max_chars, ready.limits.max_s, ready.limits.concurrent) == (300, 40, 1)
    assert {option.name for option in ready.options} == OTHER.keys()


def test_its_tokens_are_those_of_the_package(checkpoints: Checkpoints) -> None:
    plain, other = checkpoints.facts["english"]
    assert plain["adapter"] == plain["package"]
    assert other["adapter"] == other["package"]
    assert plain["package"] != other["package"]
    assert len(plain["package"]) == len(other["package"]) == TOKENS


def test_chunks_have_as_many_samples_as_the_whole(english: EngineProcess, checkpoints: Checkpoints) -> None:
    whole = english.speak(TEXT, "anna", chunk_size=100, s3gen_steps=10)
    assert whole.sizes == [TOKENS * TOKEN] == [checkpoints.facts["english"][0]["samples"]]
    assert whole.done.stats.tokens == TOKENS
    streamed = english.speak(TEXT, "anna", first_chunk_size=5, continuation_chunk_size=8, s3gen_steps=10)
    # After 5, 13, 21, 29 and 37 tokens, and 3 more each; the last 4 of a chunk come with the next.
    assert streamed.sizes == [5 * TOKEN - OVERLAP, *[8 * TOKEN] * 4, 3 * TOKEN + OVERLAP]
    assert streamed.last == [False] * 5 + [True]
    assert english.speak(TEXT, "anna", chunk_size=40).sizes == [TOKENS * TOKEN]  # no more than that has come to decode
    assert english.speak(TEXT, "anna", chunk_size=37).sizes == [33 * TOKEN, 7 * TOKEN]
    for speech in (whole, streamed):
        assert np.isfinite(speech.samples).all()
        assert 0 < np.abs(speech.samples).max() <= 1


@pytest.mark.parametrize("variant", ["english", "turbo"])
def test_chunks_sound_as_the_whole(checkpoints: Checkpoints, variant: str) -> None:
    """The same tokens and the same noise: only what the decoder knows of the tokens around a chunk differs."""
    assert checkpoints.facts[f"{variant} seams"] < 0.3  # with other noise it would be about 1


def test_the_seed_decides_everything(english: EngineProcess, plain: Speech) -> None:
    first = english.speak(TEXT, "anna", seed=7)
    assert not same(first.samples, plain.samples)
    assert same(english.speak(TEXT, "anna", seed=7).samples, first.samples)
    assert english.speak(TEXT, "anna", seed=2**63 + 5).sizes == [20 * TOKEN, 20 * TOKEN]  # 24 tokens, and 16


def test_voices_take_turns(english: EngineProcess, plain: Speech) -> None:
    bob = english.speak(TEXT, "bob")
    assert not same(plain.samples, bob.samples)
    assert same(english.speak(TEXT, "anna").samples, plain.samples)
    assert same(english.speak(TEXT, "bob").samples, bob.samples)


def test_the_text_is_heard(english: EngineProcess, plain: Speech) -> None:
    assert not same(plain.samples, english.speak("Something else.", "anna").samples)


@pytest.mark.parametrize("name", OTHER)
def test_an_option_reaches_the_engine(english: EngineProcess, plain: Speech, name: str) -> None:
    other = english.speak(TEXT, "anna", **{name: OTHER[name]})
    assert not same(plain.samples, other.samples)


def test_an_option_is_by_default_what_is_declared(english: EngineProcess, plain: Speech) -> None:
    defaults = {option.name: option.default for option in english.ready.options}
    assert defaults["s3gen_steps"] == 1  # of the engine's table
    assert same(english.speak(TEXT, "anna", **defaults).samples, plain.samples)


def test_an_option_out_of_its_range_is_refused(english: EngineProcess) -> None:
    for option in english.ready.options:
        assert option.min is not None
        assert option.max is not None
        for wrong in (option.min - 1, option.max + 1, "much", True, float("nan")):
            with pytest.raises(RefusedError, match=option.name) as caught:
                english.speak(TEXT, "anna", **{option.name: wrong})
            assert caught.value.code == "bad_option"
    for end in ("min", "max"):
        limits = {option.name: getattr(option, end) for option in english.ready.options}
        whole = {option.name: int(limits[option.name]) for option in english.ready.options if option.type == "integer"}
        assert english.speak(TEXT, "anna", **limits | whole).done.stats.tokens == TOKENS
    with pytest.raises(RefusedError, match="loudness") as caught:
        english.speak(TEXT, "anna", loudness=1)
    assert caught.value.code == "bad_option"


def test_guidance_may_be_none(english: EngineProcess, plain: Speech) -> None:
    speech = english.speak(TEXT, "anna", cfg_weight=0)
    assert sum(speech.sizes) == TOKENS * TOKEN
    assert not same(speech.samples, plain.samples)


def test_a_job_can_be_cancelled_between_tokens(english: EngineProcess) -> None:
    before = english.steps()
    english.speak(TEXT, "anna", chunk_size=100)
    assert english.steps() - before >= TOKENS  # each is one at which it would end
    number = english.begin(TEXT, "anna", chunk_size=5)
    assert isinstance(english.receive(), Samples)
    english.cancel(number)
    while not isinstance(message := english.receive(), Done):
        assert isinstance(message, Samples)
    assert message.cancelled
    assert english.speak(TEXT, "anna").done.stats.tokens == TOKENS


def test_without_credit_nothing_is_computed(english: EngineProcess) -> None:
    number = english.begin(TEXT, "anna", credit=1, chunk_size=5)
    assert isinstance(english.receive(), Samples)
    english.cancel(number)
    message = english.receive()
    assert isinstance(message, Done)
    assert message.cancelled


@pytest.mark.parametrize(
    ("text", "key", "code"),
    [
        (" \n", "anna", "failed"),
        ("a" * 2100, "anna", "too_long"),
        (TEXT, None, "voice_rejected"),  # the checkpoint has no voice of its own
    ],
)
def test_a_text_that_cannot_be_spoken_is_refused(english: EngineProcess, text: str, key: str | None, code: str) -> None:
    with pytest.raises(RefusedError) as caught:
        english.speak(text, key)
    assert caught.value.code == code
    assert english.speak(TEXT, "anna").done.stats.tokens == TOKENS


@pytest.mark.parametrize(("seconds", "rate"), [(1.0, 44_100), (5.03, 44_100), (60.0, 16_000), (3.31, 8_000)])
def test_clips_of_any_length_and_rate(english: EngineProcess, seconds: float, rate: int) -> None:
    key = f"{seconds} {rate}"
    assert english.voice(key, clip(3, seconds, rate), rate).nbytes > 10_000
    assert english.speak(TEXT, key).sizes == [20 * TOKEN, 20 * TOKEN]


def test_a_folder_that_does_not_exist_ends_the_start(checkpoints: Checkpoints, tmp_path: Path) -> None:
    with (
        pytest.raises(RefusedError, match="model: there is no folder /nowhere"),
        running(checkpoints.python, "chatterbox", tmp_path / "log", model="/nowhere"),
    ):
        pass
