"""Mel spectra, which the phone recogniser and the speaker embedding listen to."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from echo.types import Audio
from train.tiny.corpus import RATE

Mel = npt.NDArray[np.float32]
"""Natural logarithms of band powers, shape [frames, BANDS]."""

BANDS = 40
#: 11.6 ms at the corpus's rate.
HOP = 256
_WINDOW = 512
_LOW_HZ, _HIGH_HZ = 60.0, 8000.0
#: Added to every band's power: about 60 dB below the bands of speech at the corpus's level.
_FLOOR = 1e-7


def mel(samples: Audio) -> Mel:
    """Log mel spectrum of mono audio at the corpus's rate, a frame per ``HOP`` samples."""
    padded = np.pad(samples, (_WINDOW // 2, _WINDOW))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[: len(samples) : HOP]
    spectrum = np.fft.rfft(frames * np.hanning(_WINDOW).astype(np.float32))
    power = (np.square(spectrum.real) + np.square(spectrum.imag)) / _WINDOW
    return np.log(power @ _bands() + _FLOOR).astype(np.float32)


def speech_frames(spectrum: Mel) -> npt.NDArray[np.bool_]:
    """Frames within 40 dB of the loudest in total power, [frames]."""
    level = np.logaddexp.reduce(spectrum, axis=1)
    found: npt.NDArray[np.bool_] = level > level.max(initial=-np.inf) - 40 / 10 * np.log(10)
    return found


@cache
def _bands() -> npt.NDArray[np.float32]:
    hertz = np.fft.rfftfreq(_WINDOW, 1 / RATE)[:, None]
    edges = np.linspace(_to_mel(_LOW_HZ), _to_mel(_HIGH_HZ), BANDS + 2)
    place = _to_mel(hertz)
    rising = (place - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - place) / (edges[2:] - edges[1:-1])
    triangles = np.maximum(0, np.minimum(rising, falling))
    return np.asarray(triangles / np.maximum(triangles.sum(0), 1e-9), np.float32)


def _to_mel(hertz: npt.ArrayLike) -> npt.NDArray[np.float64]:
    return np.asarray(2595 * np.log10(1 + np.asarray(hertz, np.float64) / 700))
