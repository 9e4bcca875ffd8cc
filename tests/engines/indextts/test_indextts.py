"""IndexTTS-2 on a tiny random checkpoint, which says 60 tokens of every segment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from echo.engines.remote.messages import Done, Samples
from tests.engines.indextts.conftest import RATE, SEGMENT, TEXT, Checkpoint, clip
from tests.engines.process import EngineProcess, RefusedError, Speech, running

#: A value of each option that is not its default.
OTHER = {
    "temperature": 0.3,
    "top_p": 0.2,
    "top_k": 3,
    "num_beams": 1,
    "repetition_penalty": 1.0,
    "max_mel_tokens": 50,
    "max_text_tokens_per_segment": 100,
}
SORROW = [0.0, 0.0, 0.5, 0.0, 0.0, 0.2, 0.0, 0.0]


def same(one: Speech, other: Speech) -> bool:
    return one.sizes == other.sizes and bool((one.samples == other.samples).all())


@pytest.fixture(scope="module")
def plain(indextts: EngineProcess) -> Speech:
    """With no options."""
    return indextts.speak(TEXT, "anna")


def test_it_says_what_it_is(indextts: EngineProcess) -> None:
    ready = indextts.ready
    assert (ready.name, ready.version, ready.sample_rate, ready.device) == ("indextts-2", "2.1.1", RATE, "cpu")
    assert ready.license == "bilibili Model Use License Agreement"
    assert (ready.capabilities.clone, ready.capabilities.named, ready.capabilities.stream) == (True, False, "segment")
    assert set(ready.capabilities.emotion) == {
        *("emo_vector", "emo_alpha", "use_emo_text", "emo_text", "use_random", "emo_audio_prompt")
    }
    assert (ready.limits.max_chars, ready.limits.clip_max_s, ready.limits.concurrent) == (300, 15, 1)
    assert {option.name for option in ready.options} == OTHER.keys()
    limits = {option.name: option.max for option in ready.options}
    assert (limits["max_mel_tokens"], limits["max_text_tokens_per_segment"]) == (400, 100)  # the checkpoint's positions


def test_segments_are_what_the_package_says_at_once(indextts: EngineProcess, checkpoint: Checkpoint) -> None:
    pcm, rate = soundfile.read(checkpoint.folder / "clip.wav", dtype="float32")
    indextts.voice("clip", pcm, rate)
    speech = indextts.speak(TEXT, "clip", seed=7)
    assert checkpoint.facts["segments"] == 2
    assert speech.sizes == [SEGMENT, SEGMENT]  # without the silence that the package puts after each
    assert speech.last == [False, True]
    assert speech.done.stats.tokens == 2 * checkpoint.facts["tokens"]
    assert not speech.done.truncated
    silence = np.zeros(checkpoint.facts["silence"], np.float32)
    joined = np.concatenate([speech.frames[0], silence, speech.frames[1]])
    whole = np.load(checkpoint.folder / "whole.npy").astype(np.float32) / 32767
    assert whole.any()
    np.testing.assert_allclose(joined, whole, atol=1.5 / 32767)


def test_the_seed_decides_everything(indextts: EngineProcess, plain: Speech) -> None:
    first = indextts.speak(TEXT, "anna", seed=7)
    assert not same(first, plain)
    assert same(indextts.speak(TEXT, "anna", seed=7), first)
    assert indextts.speak(TEXT, "anna", seed=2**63 + 5).sizes == [SEGMENT, SEGMENT]


def test_voices_take_turns(indextts: EngineProcess, plain: Speech) -> None:
    bob = indextts.speak(TEXT, "bob")
    assert not same(plain, bob)
    assert same(indextts.speak(TEXT, "anna"), plain)
    assert same(indextts.speak(TEXT, "bob"), bob)


@pytest.mark.parametrize("name", OTHER)
def test_an_option_reaches_the_engine(indextts: EngineProcess, plain: Speech, name: str) -> None:
    other = indextts.speak(TEXT, "anna", **{name: OTHER[name]})
    assert not same(plain, other)
    assert other.done.truncated == (name == "max_mel_tokens")
    assert len(other.frames) == (1 if name == "max_text_tokens_per_segment" else 2)


def test_an_option_is_by_default_what_is_declared(indextts: EngineProcess, plain: Speech) -> None:
    defaults = {option.name: option.default for option in indextts.ready.options}
    assert defaults["max_text_tokens_per_segment"] == 40  # of the engine's table
    assert same(indextts.speak(TEXT, "anna", **defaults), plain)


def test_an_option_out_of_its_range_is_refused(indextts: EngineProcess) -> None:
    for option in indextts.ready.options:
        assert option.min is not None
        assert option.max is not None
        for wrong in (option.min - 1, option.max + 1, "much", True, float("nan")):
            refused(indextts, option.name, **{option.name: wrong})
    refused(indextts, "loudness: there is no such option", loudness=1)


@pytest.mark.parametrize("end", ["min", "max"])
def test_the_ends_of_the_ranges_can_be_spoken(indextts: EngineProcess, end: str) -> None:
    limits = {option.name: getattr(option, end) for option in indextts.ready.options}
    whole = {option.name: int(limits[option.name]) for option in indextts.ready.options if option.type == "integer"}
    assert indextts.speak("It is short.", "anna", **limits | whole).sizes


# -- emotions


@pytest.fixture(scope="module")
def moods(indextts: EngineProcess, plain: Speech) -> dict[str, Speech]:
    """The same text in each way that an emotion can be asked for."""
    return {
        "plain": plain,
        "vector": indextts.speak(TEXT, "anna", emo_vector=SORROW),
        "clip": indextts.speak(TEXT, "anna", emotion_key="sad"),
        "text": indextts.speak(TEXT, "anna", use_emo_text=True),
        "other text": indextts.speak(TEXT, "anna", use_emo_text=True, emo_text="Hooray!"),
        "weak clip": indextts.speak(TEXT, "anna", emotion_key="sad", emo_alpha=0.3),
        "weak vector": indextts.speak(TEXT, "anna", emo_vector=SORROW, emo_alpha=0.3),
        "weak text": indextts.speak(TEXT, "anna", use_emo_text=True, emo_alpha=0.3),
        "random vector": indextts.speak(TEXT, "anna", emo_vector=SORROW, use_random=True),
        "random text": indextts.speak(TEXT, "anna", use_emo_text=True, emo_text="Hooray!", use_random=True),
    }


def test_every_mode_is_heard(moods: dict[str, Speech]) -> None:
    names = list(moods)
    for number, name in enumerate(names):
        assert moods[name].sizes == [SEGMENT, SEGMENT]
        assert np.isfinite(moods[name].samples).all()
        for other in names[number + 1 :]:
            assert not same(moods[name], moods[other]), (name, other)


def test_a_vector_has_its_order_and_is_scaled(indextts: EngineProcess) -> None:
    def vector(**shares: float) -> Speech:
        order = ["happy", "angry", "sad", "afraid", "disgusted", "melancholic", "surprised", "calm"]
        return indextts.speak(TEXT, "anna", emo_vector=[shares.get(name, 0.0) for name in order])

    # The checkpoint's model of texts finds joy of 0.7 in what ends with "!", else sorrow of 0.9.
    assert same(indextts.speak(TEXT, "anna", use_emo_text=True, emo_text="Hooray!"), vector(happy=0.7))
    sorrow = indextts.speak(TEXT, "anna", use_emo_text=True)
    assert same(sorrow, vector(sad=0.9))
    assert same(sorrow, vector(sad=1.0))  # all of more than 0.8 is 0.8
    assert same(sorrow, vector(sad=0.8))
    assert not same(sorrow, vector(sad=0.7))
    assert same(vector(happy=0.4, sad=0.4), vector(happy=1.0, sad=1.0))


def test_a_strength_of_nothing_is_no_emotion(indextts: EngineProcess, plain: Speech) -> None:
    nothing = indextts.speak(TEXT, "anna", emo_vector=SORROW, emo_alpha=0)
    np.testing.assert_allclose(nothing.samples, plain.samples, atol=1e-3)
    weak = indextts.speak(TEXT, "anna", emotion_key="sad", emo_alpha=0)
    np.testing.assert_allclose(weak.samples, plain.samples, atol=1e-3)


def test_what_goes_with_no_emotion_changes_nothing(indextts: EngineProcess, plain: Speech) -> None:
    for more in ({"emo_alpha": 0.5}, {"use_random": True}, {"emo_text": "sad"}):
        assert same(indextts.speak(TEXT, "anna", **more), plain)


def test_a_clip_of_the_voice_itself_is_an_emotion_like_others(indextts: EngineProcess, plain: Speech) -> None:
    assert same(indextts.speak(TEXT, "anna", emotion_key="anna"), plain)


def test_after_an_emotion_a_voice_is_as_before(
    indextts: EngineProcess, plain: Speech, moods: dict[str, Speech]
) -> None:
    assert same(indextts.speak(TEXT, "anna"), plain)
    bob = indextts.speak(TEXT, "bob", emotion_key="sad")
    assert same(indextts.speak(TEXT, "anna", emotion_key="sad"), moods["clip"])
    assert same(indextts.speak(TEXT, "bob", emotion_key="sad"), bob)


def test_a_random_emotion_repeats_with_its_seed(indextts: EngineProcess, moods: dict[str, Speech]) -> None:
    assert same(indextts.speak(TEXT, "anna", emo_vector=SORROW, use_random=True), moods["random vector"])


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("emo_vector: there is an emotion already, by emo_audio_prompt", {"emo_vector": SORROW, "emotion_key": "sad"}),
        ("use_emo_text: there is an emotion already, by emo_vector", {"emo_vector": SORROW, "use_emo_text": True}),
        ("use_emo_text: there is an emotion", {"use_emo_text": True, "emotion_key": "sad"}),
        ("emo_vector: this is no value", {"emo_vector": [0.5] * 7}),
        ("emo_vector: this is no value", {"emo_vector": [2.0, *[0.0] * 7]}),
        ("emo_vector: this is no value", {"emo_vector": 0.5}),
        ("emo_alpha: this is no value", {"emo_alpha": 1.5}),
        ("use_emo_text: this is no value", {"use_emo_text": 1}),
        ("emo_text: this is no value", {"emo_text": 1}),
        ("use_random: this is no value", {"use_random": "no"}),
    ],
)
def test_emotions_that_cannot_be_are_refused(indextts: EngineProcess, message: str, options: dict[str, Any]) -> None:
    refused(indextts, message, **options)


# -- how it ends


def test_a_job_can_be_cancelled_between_tokens(indextts: EngineProcess) -> None:
    before = indextts.steps()
    indextts.speak(TEXT, "anna", num_beams=1)
    assert indextts.steps() - before >= 2 * (60 + 25)  # each is one at which it would end
    number = indextts.begin(TEXT, "anna")
    assert isinstance(indextts.receive(), Samples)
    indextts.cancel(number)
    message = indextts.receive()
    assert isinstance(message, Done)  # not a second segment
    assert message.cancelled
    assert indextts.speak(TEXT, "anna").sizes == [SEGMENT, SEGMENT]


def test_without_credit_nothing_is_computed(indextts: EngineProcess) -> None:
    number = indextts.begin(TEXT, "anna", credit=1)
    assert isinstance(indextts.receive(), Samples)
    indextts.cancel(number)
    message = indextts.receive()
    assert isinstance(message, Done)
    assert message.cancelled


@pytest.mark.parametrize(
    ("text", "key", "code"),
    [(" \n", "anna", "failed"), (TEXT, None, "voice_missing"), (TEXT, "nobody", "voice_unknown")],
)
def test_what_cannot_be_spoken_is_refused(indextts: EngineProcess, text: str, key: str | None, code: str) -> None:
    with pytest.raises(RefusedError) as caught:
        indextts.speak(text, key)
    assert caught.value.code == code
    assert indextts.speak("It is short.", "anna").sizes == [SEGMENT]


@pytest.mark.parametrize(("seconds", "rate"), [(1.0, 44_100), (20.0, 16_000), (3.31, 8_000)])
def test_clips_of_any_length_and_rate(indextts: EngineProcess, seconds: float, rate: int) -> None:
    key = f"{seconds} {rate}"
    assert indextts.voice(key, clip(3, seconds, rate), rate).nbytes > 10_000
    assert indextts.speak("It is short.", key).sizes == [SEGMENT]


def test_a_folder_that_does_not_exist_ends_the_start(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with (
        pytest.raises(RefusedError, match="model: there is no folder /nowhere"),
        running(checkpoint.python, "indextts", tmp_path / "log", model="/nowhere"),
    ):
        pass


def refused(indextts: EngineProcess, message: str, **options: Any) -> None:
    with pytest.raises(RefusedError, match=message) as caught:
        indextts.speak(TEXT, "anna", **options)
    assert caught.value.code == "bad_option"
