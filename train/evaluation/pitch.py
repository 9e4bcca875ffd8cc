"""Fundamental frequency: does the output have the pitch of its reference clip, and the melody of its teacher?"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from echo.audio.measure import silence_threshold, window_levels
from echo.types import Audio
from train.evaluation.measure import pitch_hz, rms, speech_span
from train.tiny.corpus import RATE

Contour = npt.NDArray[np.float64]
"""Hertz every ``FRAME_MS``, 0 where unvoiced."""

FRAME_MS = 10.0
#: What the pitch of a moment is measured on.
_WINDOW_S = 0.04
#: A melody is compared at so many points, and needs that many at which both are voiced.
_POINTS, _NEEDED = 100, 12


def contour(samples: Audio) -> Contour:
    """Pitch of mono audio at the corpus's rate, by the autocorrelation of each moment that is not silent."""
    length, hop = round(_WINDOW_S * RATE), round(FRAME_MS / 1000 * RATE)
    padded = np.pad(samples, length // 2)
    threshold = silence_threshold(float(np.max(window_levels(samples, RATE), initial=0.0)))
    frames = (padded[start : start + length] for start in range(0, len(samples), hop))
    return np.asarray([(pitch_hz(frame, RATE) or 0.0) if rms(frame) > threshold else 0.0 for frame in frames])


def median_hz(pitch: Contour) -> float | None:
    """Median of the voiced frames; None when there are none."""
    voiced = pitch[pitch > 0]
    return float(np.median(voiced)) if len(voiced) else None


def melody_correlation(one: Audio, other: Audio) -> float | None:
    """Correlation of the log pitch of two recordings of one text, their speech brought to the same length.

    None where too little is voiced in both at the same time.
    """
    a, b = _melody(one), _melody(other)
    if a is None or b is None:
        return None
    both = np.isfinite(a) & np.isfinite(b)
    if both.sum() < _NEEDED:
        return None
    return correlation(a[both], b[both])


def correlation(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float | None:
    """Pearson's correlation; None for fewer than three points or where one side does not vary."""
    if len(a) < 3 or min(np.std(a), np.std(b)) < 1e-9:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _melody(samples: Audio) -> Contour | None:
    """Log pitch at ``_POINTS`` evenly spaced moments of the speech, NaN where unvoiced."""
    span = speech_span(samples, RATE)
    pitch = contour(samples)
    if span is None or not len(pitch):
        return None
    frames = np.linspace(*span, _POINTS) * (1000 / FRAME_MS)
    chosen = pitch[np.minimum(np.round(frames).astype(np.int64), len(pitch) - 1)]
    with np.errstate(divide="ignore"):
        melody: Contour = np.where(chosen > 0, np.log(chosen), np.nan)
    return melody
