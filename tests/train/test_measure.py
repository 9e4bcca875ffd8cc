from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from echo.types import Audio
from train.evaluation.measure import CLICK_THRESHOLD, click_score, click_scores, pitch_hz, rms, speech_span

RATE = 44_100
PROMPT = Path(__file__).parents[2] / "audio_prompts" / "tiny_dan.flac"


def sine(hertz: float, seconds: float, amplitude: float = 0.3, phase: float = 0.0) -> Audio:
    time = np.arange(int(seconds * RATE)) / RATE
    samples: Audio = (amplitude * np.sin(2 * np.pi * hertz * time + phase)).astype(np.float32)
    return samples


def silence(seconds: float) -> Audio:
    return np.zeros(int(seconds * RATE), np.float32)


def faded(samples: Audio, seconds: float = 0.005) -> Audio:
    count = int(seconds * RATE)
    rise = 0.5 - 0.5 * np.cos(np.pi * np.arange(count) / count)
    shape = np.ones(len(samples))
    shape[:count], shape[-count:] = rise, rise[::-1]
    return samples * shape.astype(np.float32)


def test_level_of_a_sine() -> None:
    assert rms(sine(441, 1.0, amplitude=0.5)) == pytest.approx(0.5 / np.sqrt(2), rel=1e-3)


def test_nothing_has_neither_level_nor_span_nor_pitch_nor_clicks() -> None:
    nothing = silence(0)
    assert rms(nothing) == 0
    assert speech_span(nothing, RATE) is None
    assert pitch_hz(nothing, RATE) is None
    assert click_score(nothing, RATE) == 0


def test_speech_span_is_found_to_one_window() -> None:
    samples = np.concatenate([silence(0.2), sine(200, 0.5), silence(0.3)])
    span = speech_span(samples, RATE)
    assert span is not None
    onset, offset = span
    assert onset == pytest.approx(0.2, abs=0.011)
    assert offset == pytest.approx(0.7, abs=0.011)


def test_all_silence_has_no_span() -> None:
    assert speech_span(silence(1.0), RATE) is None
    assert speech_span(np.full(RATE, 1e-5, np.float32), RATE) is None


@pytest.mark.parametrize("hertz", [80.0, 123.0, 210.0, 395.0])
def test_pitch_of_a_harmonic_tone_whatever_its_strongest_partial(hertz: float) -> None:
    for strongest in (1, 2, 3):
        parts = [sine(hertz * k, 0.4, amplitude=0.3 if k == strongest else 0.1, phase=k) for k in range(1, 7)]
        samples = np.concatenate([silence(0.1), sum(parts), silence(0.1)])
        assert pitch_hz(samples, RATE) == pytest.approx(hertz, rel=0.01)


def test_noise_has_no_pitch() -> None:
    assert pitch_hz(np.random.default_rng(1).standard_normal(RATE).astype(np.float32) * 0.1, RATE) is None


@pytest.mark.parametrize("phase", np.linspace(0, 2 * np.pi, 7))
@pytest.mark.parametrize("hertz", [90, 220, 880, 1500])
def test_a_wave_that_starts_or_stops_at_once_clicks_and_a_faded_one_does_not(hertz: float, phase: float) -> None:
    wave = sine(hertz, 0.2, phase=phase)
    assert click_score(np.concatenate([silence(0.1), wave, silence(0.1)]), RATE) > CLICK_THRESHOLD
    assert click_score(np.concatenate([silence(0.1), faded(wave), silence(0.1)]), RATE) < 2
    assert click_score(wave, RATE) < 2


def test_noise_is_not_a_click() -> None:
    assert click_score(np.random.default_rng(2).standard_normal(RATE).astype(np.float32) * 0.1, RATE) < 2


def test_a_click_planted_in_speech_is_found_where_it_is() -> None:
    speech = np.asarray(sf.read(PROMPT, dtype="float32")[0], np.float32)
    assert click_score(speech, RATE) <= CLICK_THRESHOLD
    place = len(speech) // 2
    speech[place:] += np.float32(0.05)
    found = np.flatnonzero(click_scores(speech, RATE) > CLICK_THRESHOLD)
    assert len(found)
    assert np.abs(found - place).max() <= 2
