"""What the tests hear: decoding, how much of a sound is voiced, whether two recordings say the same."""

from __future__ import annotations

import io
import wave

import av
import numpy as np
import numpy.typing as npt

from echo.types import Audio
from train.evaluation.measure import pitch_hz

Features = npt.NDArray[np.float64]
"""Normalised mel cepstra, shape [frames, 12]."""

_WINDOW, _HOP_S, _BANDS, _CEPSTRA = 2048, 0.0125, 40, 13


def from_pcm(data: bytes) -> Audio:
    """Samples of headerless 16-bit audio."""
    return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32768)


def from_wav(data: bytes) -> Audio:
    """Samples of a 16-bit mono WAV file that is right in every size it states."""
    with wave.open(io.BytesIO(data)) as file:
        assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
        frames = file.readframes(file.getnframes())
        assert len(frames) == 2 * file.getnframes(), "the header promises more than there is"
        return from_pcm(frames)


def decoded(data: bytes) -> tuple[Audio, int]:
    """Samples and rate of any audio file, by FFmpeg."""
    with av.open(io.BytesIO(data), "r") as container:
        stream = container.streams.audio[0]
        frames = [frame.to_ndarray() for frame in container.decode(stream)]
        planes = [f.reshape(1, -1)[0] / (32768.0 if f.dtype == np.int16 else 1.0) for f in frames]
        return np.concatenate(planes).astype(np.float32), stream.codec_context.sample_rate


def voiced_share(samples: Audio, rate: int) -> float:
    """Share of the 50 ms pieces that have a pitch."""
    length = round(0.05 * rate)
    pieces = [samples[start : start + length] for start in range(0, len(samples) - length, length)]
    return float(np.mean([pitch_hz(piece, rate) is not None for piece in pieces]))


def word_distance(one: Audio, other: Audio, rate: int) -> float:
    """How differently two recordings are articulated, whatever their tempo, pitch and level.

    Mel-cepstral distance per frame along the best alignment (dynamic time warping). About 1.0 to 1.5 for the same
    sentence by two voices of the embedded model, 1.8 to 2.1 for different ones.
    """
    a, b = _features(one, rate), _features(other, rate)
    costs: list[list[float]] = np.sqrt(np.square(a[:, None] - b[None]).sum(-1)).tolist()
    before = [0.0] + [float("inf")] * len(b)
    for row in costs:
        now = [float("inf")]
        for i, cost in enumerate(row):
            now.append(cost + min(before[i], before[i + 1], now[i]))
        before = now
    return before[-1] / (len(a) + len(b))


def _features(samples: Audio, rate: int) -> Features:
    padded = np.pad(samples.astype(np.float64), _WINDOW // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[:: int(_HOP_S * rate)] * np.hanning(_WINDOW)
    bands = np.abs(np.fft.rfft(frames)) ** 2 @ _mel_bands(rate)
    levels = np.log(bands + 1e-4 * bands.max())
    cosines = np.cos(np.pi / _BANDS * np.outer(np.arange(_BANDS) + 0.5, np.arange(1, _CEPSTRA)))
    cepstra = levels @ cosines
    normalised: Features = (cepstra - cepstra.mean(0)) / cepstra.std(0)  # what the voice adds to every frame goes
    return normalised


def _mel_bands(rate: int) -> Features:
    mel = 2595 * np.log10(1 + np.fft.rfftfreq(_WINDOW, 1 / rate)[:, None] / 700)
    edges = np.linspace(2595 * np.log10(1 + 80 / 700), 2595 * np.log10(1 + 8000 / 700), _BANDS + 2)
    rising = (mel - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - mel) / (edges[2:] - edges[1:-1])
    triangles = np.maximum(0, np.minimum(rising, falling))
    normalised: Features = triangles / triangles.sum(0)
    return normalised
