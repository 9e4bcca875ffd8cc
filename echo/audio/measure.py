"""Where audio is silent. Numpy only; everything takes mono floats."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from echo.types import Audio

Levels = npt.NDArray[np.float64]
"""RMS of consecutive windows, shape [windows]."""

#: One window of the energy measures, in seconds: shorter than the shortest consonant burst, longer than a pitch period.
WINDOW_S = 0.01
#: Below the loudest window by this much is silence. Fricatives lie 25 to 40 dB below the loudest vowel, room noise
#: of a clean recording 50 dB or more.
SILENCE_BELOW_PEAK_DB = -45.0
#: Silence whatever the speech's level: about 10 steps of 16-bit audio.
SILENCE_FLOOR_DB = -70.0


def amplitude(decibels: float) -> float:
    """Linear amplitude of a level in dB relative to full scale."""
    return float(10.0 ** (decibels / 20.0))


def window_levels(samples: Audio, rate: int) -> Levels:
    """RMS of each consecutive 10 ms; the last window may be shorter."""
    starts = np.arange(0, len(samples), window_length(rate))
    if not len(starts):
        return np.zeros(0)
    sums = np.add.reduceat(np.square(samples, dtype=np.float64), starts)
    levels: Levels = np.sqrt(sums / np.diff(np.append(starts, len(samples))))
    return levels


def window_length(rate: int) -> int:
    """Samples of one energy window."""
    return max(1, round(WINDOW_S * rate))


def silence_threshold(loudest: float) -> float:
    """The RMS below which a window is silent, in speech whose loudest window has the RMS ``loudest``."""
    return max(loudest * amplitude(SILENCE_BELOW_PEAK_DB), amplitude(SILENCE_FLOOR_DB))


def sound_span(samples: Audio, rate: int, threshold: float) -> tuple[int, int] | None:
    """First and one past the last sample of the windows at or above the threshold RMS; None when there are none."""
    loud = np.flatnonzero(window_levels(samples, rate) >= threshold)
    if not len(loud):
        return None
    length = window_length(rate)
    return int(loud[0]) * length, min((int(loud[-1]) + 1) * length, len(samples))
