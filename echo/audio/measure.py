"""Measuring audio: level, silences, the span of speech, pitch, clicks. Numpy only; everything takes mono floats."""

from __future__ import annotations

from collections.abc import Sequence

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
#: Clean speech, noise and faded edges score below 2; a step, or a corner in a wave below 2 kHz, 4 to several hundred.
CLICK_THRESHOLD = 3.0

#: A jump of this size is below hearing (-66 dBFS) and never counts as a click.
_CLICK_FLOOR = 5e-4


def amplitude(decibels: float) -> float:
    """Linear amplitude of a level in dB relative to full scale."""
    return float(10.0 ** (decibels / 20.0))


def decibels(amplitude: float) -> float:
    """Level of a linear amplitude in dB relative to full scale; silence is -inf."""
    return float(20.0 * np.log10(amplitude)) if amplitude > 0 else float("-inf")


def rms(samples: Audio) -> float:
    """Root mean square of the samples; 0 for none."""
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) if len(samples) else 0.0


def peak_db(samples: Audio) -> float:
    """Highest absolute sample in dBFS; -inf for silence."""
    return decibels(float(np.max(np.abs(samples), initial=0.0)))


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


def speech_span(samples: Audio, rate: int) -> tuple[float, float] | None:
    """Onset and offset of the sound in seconds, to 10 ms, relative to its own loudest window; None for silence."""
    loudest = float(np.max(window_levels(samples, rate), initial=0.0))
    span = sound_span(samples, rate, silence_threshold(loudest))
    return None if span is None else (span[0] / rate, span[1] / rate)


def longest_silence_ms(samples: Audio, rate: int) -> float:
    """Longest run of silence by energy, in milliseconds, edges included."""
    levels = window_levels(samples, rate)
    loud = levels >= silence_threshold(float(np.max(levels, initial=0.0)))
    edges = np.concatenate([[-1], np.flatnonzero(loud), [len(loud)]])
    samples_in_run = (int(np.max(np.diff(edges))) - 1) * window_length(rate)
    return 1000.0 * min(samples_in_run, len(samples)) / rate


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


def clicks_s(samples: Audio, rate: int, threshold: float = CLICK_THRESHOLD) -> Sequence[float]:
    """Times of the clicks in seconds."""
    return [float(i) / rate for i in np.flatnonzero(click_scores(samples, rate) > threshold)]
