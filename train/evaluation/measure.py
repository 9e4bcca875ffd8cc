"""Measures of speech: level, span, pitch, clicks. Numpy only; everything takes mono floats."""

from __future__ import annotations

import numpy as np

from echo.audio.measure import Levels, silence_threshold, sound_span, window_levels
from echo.types import Audio

#: Clean speech, noise and faded edges score below 2; a step, or a corner in a wave below 2 kHz, 4 to several hundred.
CLICK_THRESHOLD = 3.0

#: A jump of this size is below hearing (-66 dBFS) and never counts as a click.
_CLICK_FLOOR = 5e-4


def rms(samples: Audio) -> float:
    """Root mean square of the samples; 0 for none."""
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) if len(samples) else 0.0


def speech_span(samples: Audio, rate: int) -> tuple[float, float] | None:
    """Onset and offset of the sound in seconds, to 10 ms, relative to its own loudest window; None for silence."""
    loudest = float(np.max(window_levels(samples, rate), initial=0.0))
    span = sound_span(samples, rate, silence_threshold(loudest))
    return None if span is None else (span[0] / rate, span[1] / rate)


def pitch_hz(samples: Audio, rate: int, low: float = 60.0, high: float = 500.0) -> float | None:
    """Median fundamental frequency of the voiced 40 ms frames, by autocorrelation; None when nothing is voiced."""
    length, hop = round(0.04 * rate), round(0.01 * rate)
    if len(samples) < length:
        return None
    frames = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64), length)[::hop]
    frames = frames - frames.mean(axis=1, keepdims=True)
    size = 1 << (2 * length - 1).bit_length()
    products = np.fft.irfft(np.abs(np.fft.rfft(frames, size)) ** 2)[:, :length]
    energy = products[:, 0]
    audible = energy > length * silence_threshold(float(np.sqrt(energy.max() / length))) ** 2
    estimates = [_frame_pitch(row, rate, low, high) for row in products[audible]]
    voiced = [hertz for hertz in estimates if hertz is not None]
    return float(np.median(voiced)) if voiced else None


def _frame_pitch(products: Levels, rate: int, low: float, high: float) -> float | None:
    length = len(products)
    lags = np.arange(int(rate / high), min(int(rate / low) + 2, length - 1))
    # Divided by the overlap, so that a longer lag is not scored down for having fewer products.
    score = products[lags] / products[0] * length / (length - lags)
    peaks = 1 + np.flatnonzero((score[1:-1] >= score[:-2]) & (score[1:-1] > score[2:]))
    if not len(peaks) or score[peaks].max() < 0.6:
        return None
    first = peaks[score[peaks] >= 0.9 * score[peaks].max()][0]  # multiples of the period score alike: take the shortest
    left, mid, right = score[first - 1 : first + 2]
    shift = 0.5 * (left - right) / (left - 2 * mid + right)  # vertex of the parabola through three points
    return float(rate / (lags[first] + shift))


def click_scores(samples: Audio, rate: int) -> Levels:
    """How far each sample's bend stands out of its surroundings, shape [n].

    The bend is the second difference. A step or corner bends one or two samples only, whatever the wave around it;
    speech, noise and faded edges bend their neighbours within 2 ms just as much and score about 1.
    """
    if len(samples) < 3:
        return np.zeros(len(samples))
    bend = np.abs(np.diff(samples.astype(np.float64), 2))
    near, reach = 2, max(8, round(0.002 * rate))
    padded = np.pad(bend, reach)
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach - near)
    best = windows.max(axis=1)
    around = np.maximum(best[: len(bend)], best[reach + near + 1 :][: len(bend)])
    return np.pad(bend / (around + _CLICK_FLOOR), 1)


def click_score(samples: Audio, rate: int) -> float:
    """Highest of :func:`click_scores`; above ``CLICK_THRESHOLD`` there is an audible click."""
    return float(np.max(click_scores(samples, rate), initial=0.0))
