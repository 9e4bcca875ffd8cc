"""Log-mel spectra of speech above a floor, zero in silence: what computed latents are made of."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

#: Hz at which the first band begins.
_LOWEST_HZ = 40.0
FLOOR = 4e-8
"""Mean power of a band below which everything is silence; a sine of amplitude 1 has power 1."""
SILENCE = 0.5 * math.log(FLOOR)
"""Natural logarithm of the amplitude at which the log-mel spectra begin to count."""


def log_mel(windows: Tensor, rate: int, bands: int, highest: float) -> Tensor:
    """Log-mel spectra ``[..., bands]`` above silence, natural logarithm of amplitude; 0 is silence.

    Args:
        windows: Pieces of audio ``[..., n]``, n even.
        rate: Their sample rate in hertz.
        bands: Number of bands.
        highest: Where the last one ends, in hertz.
    """
    size = windows.shape[-1]
    shape = torch.hann_window(size, device=windows.device)
    spectrum = torch.fft.rfft(windows * shape, 2 * size)
    filters = mel_filters(bands, highest, rate / (2 * size), spectrum.shape[-1]).to(windows.device)
    power = (2.0 / float(shape.sum()) * spectrum.abs()).square() @ filters
    above: Tensor = 0.5 * ((power + FLOOR) / FLOOR).log()
    return above


@lru_cache
def mel_filters(bands: int, highest: float, width: float, bins: int) -> Tensor:
    """The bands ``[bins, bands]``: triangles of area 1, even on HTK's scale; bins lie ``width`` hertz apart."""
    low, high = (2595.0 * math.log10(1.0 + hz / 700.0) for hz in (_LOWEST_HZ, highest))
    mels = torch.linspace(low, high, bands + 2, dtype=torch.float64)
    edges = 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
    hertz = torch.arange(bins, dtype=torch.float64)[:, None] * width
    rising = (hertz - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - hertz) / (edges[2:] - edges[1:-1])
    triangles = torch.minimum(rising, falling).clamp(min=0.0)
    return (triangles / triangles.sum(0)).float()
