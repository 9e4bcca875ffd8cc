"""The re-roll with real speech and the real detector: a clip with a pause in it, and the same clip without."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from echo.scheduler.loop import Scheduler
from echo.scheduler.policy import Limits
from echo.settings import HOME
from echo.types import SAMPLE_RATE, Audio, AudioFrame, TextAttention, Utterance
from echo.vad import SilenceGate, SilenceRules, SpeechDetector
from echo.voices.reference import read_clip
from tests.unit.scheduler.toy_model import ToyModel, ToySampler, utterance


def spoken() -> Audio:
    return read_clip(HOME / "audio_prompts" / "tiny_anna.flac")[: 2 * SAMPLE_RATE]


def with_pause(seconds: float) -> Audio:
    clip = spoken()
    half = len(clip) // 2
    return np.concatenate([clip[:half], np.zeros(int(seconds * SAMPLE_RATE), np.float32), clip[half:]])


class Clips(ToyModel):
    """Says a clip of its own for every attempt at a block."""

    def __init__(self, *clips: Audio) -> None:
        super().__init__()
        self.clips = clips

    def decode(self, states: Sequence[Any], latents: Sequence[np.ndarray]) -> Callable[[], Sequence[tuple[Audio, Any]]]:
        attempts = [round(float(z[0, 0]) * 1e6) % 10 for z in latents]
        return lambda: [(self.clips[attempt], None) for attempt in attempts]


class Telling(Clips):
    """Also tells an attention, by which one knows the attempt."""

    def text_attention(self, sampler: ToySampler) -> Callable[[], TextAttention]:
        return lambda: np.full((sampler.size, 3), sampler.noise_key[-1], np.float32)


@pytest.fixture(scope="module")
def detector() -> SpeechDetector:
    made = SpeechDetector(threads=1)
    made.load()
    return made


def frames_of(detector: SpeechDetector, model: Clips, wanted: Utterance) -> tuple[list[AudioFrame], int]:
    """Return the frames of an utterance, and how often a block of it was generated again."""
    gate = SilenceGate(SilenceRules(threshold_ms=1000, max_rerolls=len(model.clips) - 1), detector.silences)
    with ThreadPoolExecutor(1) as workers:
        device = Scheduler(model, sample_rate=SAMPLE_RATE, limits=Limits(max_jobs=1), gate=gate, workers=workers)
        try:
            stream = device.submit(wanted)
            return list(stream), stream.stats.rerolls
        finally:
            device.close()


def speak(detector: SpeechDetector, *clips: Audio) -> tuple[Audio, int]:
    frames, rerolls = frames_of(detector, Clips(*clips), utterance(blocks=((4, 1),)))
    return np.concatenate([frame.samples for frame in frames]), rerolls


@pytest.mark.slow
@pytest.mark.parametrize(("clips", "kept"), [((1.5, 0.0), 1), ((2.5, 1.5, 2.0), 1), ((1.5, 2.5), 0)])
def test_the_attention_is_of_the_attempt_that_is_sent(
    detector: SpeechDetector, clips: tuple[float, ...], kept: int
) -> None:
    model = Telling(*map(with_pause, clips))
    (frame,), rerolls = frames_of(detector, model, replace(utterance(blocks=((4, 1),)), times=True))
    assert rerolls == len(clips) - 1
    np.testing.assert_array_equal(frame.samples, with_pause(clips[kept]))
    assert frame.attention is not None
    np.testing.assert_array_equal(frame.attention(), np.full((4, 3), kept))


def test_nobody_is_told_of_the_attention_who_does_not_ask(detector: SpeechDetector) -> None:
    (frame,), _ = frames_of(detector, Telling(spoken()), utterance(blocks=((4, 1),)))
    assert frame.attention is None


def test_a_block_with_a_long_pause_is_generated_again_and_never_sent(detector: SpeechDetector) -> None:
    audio, rerolls = speak(detector, with_pause(1.5), spoken())
    assert rerolls == 1
    np.testing.assert_array_equal(audio, spoken())


def test_speech_without_a_long_pause_is_sent_as_it_is(detector: SpeechDetector) -> None:
    audio, rerolls = speak(detector, with_pause(0.5), spoken())
    assert rerolls == 0
    np.testing.assert_array_equal(audio, with_pause(0.5))


def test_the_shortest_real_pause_is_kept_when_all_are_long(detector: SpeechDetector) -> None:
    audio, rerolls = speak(detector, with_pause(2.5), with_pause(1.5), with_pause(2.0))
    assert rerolls == 2
    np.testing.assert_array_equal(audio, with_pause(1.5))


def test_a_retry_without_speech_does_not_win_over_one_with_a_pause(detector: SpeechDetector) -> None:
    audio, rerolls = speak(detector, with_pause(1.5), np.zeros(SAMPLE_RATE, np.float32))
    assert rerolls == 1
    np.testing.assert_array_equal(audio, with_pause(1.5))
