"""Jumps between two sentences."""

from __future__ import annotations

import numpy as np
import pytest

from echo.types import SAMPLE_RATE, Audio
from train.evaluation.joins import jump


def tone(hertz: float, level: float) -> Audio:
    seconds = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    return np.asarray(level * np.sin(2 * np.pi * hertz * seconds), np.float32)


def test_an_octave_and_half_the_level() -> None:
    silence = np.zeros(SAMPLE_RATE // 2, np.float32)
    found = jump(np.concatenate([tone(150, 0.4), silence]), np.concatenate([silence, tone(300, 0.2)]))
    assert found is not None
    pitch, level = found
    assert pitch == pytest.approx(12, abs=0.1)
    assert level == pytest.approx(6.02, abs=0.1)


def test_a_sentence_without_sound_has_none() -> None:
    assert jump(tone(150, 0.4), np.zeros(SAMPLE_RATE, np.float32)) is None
