"""Floats to 16-bit PCM and back: the one quantiser that pcm, wav, flac and G.711 share."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from echo.types import Audio

Int16 = npt.NDArray[np.int16]
"""16-bit samples, shape [n]."""

#: Full scale of the reference's quantiser: symmetric, -32768 is never produced.
FULL_SCALE = 32_767


def bounded(samples: Audio) -> Audio:
    """Samples limited to -1..1; NaN becomes silence, so that a numerical fault is never a bang in somebody's ear."""
    return np.clip(np.nan_to_num(samples, nan=0.0, posinf=1.0, neginf=-1.0), -1.0, 1.0)


def to_s16(samples: Audio) -> Int16:
    """Quantise to 16 bits: limited to -1..1, times 32767, truncated toward zero as the reference does."""
    return (bounded(samples) * np.float32(FULL_SCALE)).astype(np.int16)


def to_bytes(samples: Audio) -> bytes:
    """Signed 16-bit little-endian PCM; two bytes per sample, never half a sample."""
    return to_s16(samples).astype("<i2", copy=False).tobytes()


def from_bytes(data: bytes) -> Audio:
    """Float samples of signed 16-bit little-endian PCM; the inverse of :func:`to_bytes` within one step."""
    return np.frombuffer(data, dtype="<i2").astype(np.float32) / np.float32(FULL_SCALE)


def float_bytes(samples: Audio) -> bytes:
    """32-bit little-endian floats, unchanged: four bytes per sample."""
    return samples.astype("<f4", copy=False).tobytes()
