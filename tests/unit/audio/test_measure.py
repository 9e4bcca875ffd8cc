import numpy as np
import pytest

from echo.audio.measure import silence_threshold, sound_span, window_levels

RATE = 44_100


def test_nothing_has_no_windows() -> None:
    assert len(window_levels(np.zeros(0, np.float32), RATE)) == 0


def test_the_last_window_may_be_short() -> None:
    samples = np.full(441 + 100, 0.5, np.float32)
    assert window_levels(samples, RATE).tolist() == pytest.approx([0.5, 0.5])


def test_quiet_consonants_are_sound_and_room_noise_is_not() -> None:
    noise = np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    loudest = 0.3
    assert sound_span(noise * 0.3 * 10 ** (-40 / 20), RATE, silence_threshold(loudest)) is not None
    assert sound_span(noise * 0.3 * 10 ** (-52 / 20), RATE, silence_threshold(loudest)) is None
