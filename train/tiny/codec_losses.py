"""How far decoded audio is from the teacher's: spectra of several resolutions, with phase where speech is voiced."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echo.types import SAMPLE_RATE
from train.tiny.codec_data import Segments

#: Power (of a sine's amplitude) below which everything counts as silence. Recognisers hear well below what ears do.
_FLOOR = 1e-8
#: Hz above which the teachers have next to nothing, and what bins there count.
_HIGH_HZ, _HIGH_WEIGHT = 10_000.0, 0.15
#: Exponent that brings loud and soft partials closer together.
_COMPRESSION = 0.3
#: The ear hears no rumble, the network makes it easily: samples over which the mean should be zero.
_RUMBLE = 512
#: Hz between which recognisers look, and mel bands in a window of 1024; a narrower window has fewer.
_MEL_LOWEST, _MEL_HIGHEST, _MEL_BANDS = 80.0, 8_000.0, 64
#: Narrowest and widest number of bands.
_FEWEST_BANDS, _MOST_BANDS = 24, 80


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderWeights:
    """Weights of the decoder's losses.

    log        distance of log power
    mel        distance of log power in mel bands: averages, since the noise within a band cannot be predicted
    complex    distance of compressed spectra with phase, where voiced
    magnitude  the same without phase, everywhere
    wave       distance of samples, where voiced
    rumble     squared mean of 512 samples
    start      what is heard before a stream's first sound
    """

    log: float = 1.0
    mel: float = 2.0
    complex: float = 4.0
    magnitude: float = 2.0
    wave: float = 3.0
    rumble: float = 50.0
    start: float = 10.0


def spectrum(audio: Tensor, window: int) -> Tensor:
    """Complex spectra ``[b, window / 2 + 1, frames]`` of ``[b, n]``; a sine of amplitude 1 has magnitude 1."""
    shape = torch.hann_window(window, device=audio.device)
    frames = torch.stft(audio, window, window // 4, window=shape, center=False, return_complex=True)
    return frames * (2.0 / shape.sum())


class SpectralLoss:
    """Compares audio at ``rate`` in the given windows (samples), in mel bands that end at ``mel_highest`` hertz."""

    def __init__(self, windows: Sequence[int], *, rate: int = SAMPLE_RATE, mel_highest: float = _MEL_HIGHEST) -> None:
        self.windows = tuple(windows)
        self._rate = rate
        self._mel_highest = mel_highest

    def terms(self, audio: Tensor, target: Tensor, voicing: Tensor) -> dict[str, Tensor]:
        """Distances of ``audio`` and ``target`` ``[b, n]``, phase weighed by ``voicing`` ``[b, n / k]``, any k."""
        sums = {name: audio.new_zeros(()) for name in ("log", "mel", "complex", "magnitude")}
        for window in self.windows:
            for name, value in _compare(audio, target, voicing, window, self._rate, self._mel_highest).items():
                sums[name] = sums[name] + value / len(self.windows)
        voiced = voicing.repeat_interleave(audio.shape[1] // voicing.shape[1], 1)
        sums["wave"] = ((audio - target).abs() * voiced).mean()
        blocks = audio[:, : audio.shape[1] // _RUMBLE * _RUMBLE].reshape(len(audio), -1, _RUMBLE)
        sums["rumble"] = blocks.mean(2).square().mean()
        return sums


def weigh(terms: dict[str, Tensor], weights: DecoderWeights) -> Tensor:
    """Return the sum of the losses that ``weights`` knows."""
    return torch.stack(
        [getattr(weights, name) * value for name, value in terms.items() if hasattr(weights, name)]
    ).sum()


@lru_cache
def mel_bands(window: int, rate: int = SAMPLE_RATE, highest: float = _MEL_HIGHEST) -> Tensor:
    """Triangular mel bands ``[bands, window / 2 + 1]`` at a rate, each with weights of sum 1."""
    bands = min(max(_MEL_BANDS * window * SAMPLE_RATE // rate // 1024, _FEWEST_BANDS), _MOST_BANDS)
    low, high = (2595.0 * math.log10(1.0 + hz / 700.0) for hz in (_MEL_LOWEST, highest))
    edges = 700.0 * (10.0 ** (torch.linspace(low, high, bands + 2) / 2595.0) - 1.0)
    step = rate / window
    # A band narrower than the bins would hold none of them.
    width = torch.maximum(edges.diff(), torch.tensor(step))[:, None]
    away = torch.arange(window // 2 + 1) * step - edges[1:-1, None]
    shape = (1.0 - torch.where(away < 0, -away / width[:-1], away / width[1:])).clamp(min=0.0)
    return shape / shape.sum(1, keepdim=True)


def log_distance(audio: Tensor, target: Tensor, window: int = 1024) -> float:
    """Root-mean-square distance in dB of the power spectra of ``[n]`` below 8 kHz, where the target has sound."""
    bins = int(8_000 / SAMPLE_RATE * window)
    a, b = (10.0 * (spectrum(x[None], window).abs().square() + _FLOOR).log10()[0, :bins] for x in (audio, target))
    speech = b.amax(0) > -60.0
    return float((a - b)[:, speech].square().mean().sqrt())


def _compare(
    audio: Tensor, target: Tensor, voicing: Tensor, window: int, rate: int, mel_highest: float
) -> dict[str, Tensor]:
    found, wanted = spectrum(audio, window), spectrum(target, window)
    bins = torch.arange(found.shape[1], device=audio.device) * (rate / window)
    weight = torch.where(bins < _HIGH_HZ, 1.0, _HIGH_WEIGHT)[:, None]
    powers = [one.real.square() + one.imag.square() for one in (found, wanted)]
    logs = [(power + _FLOOR).log() for power in powers]
    bands = mel_bands(window, rate, mel_highest).to(audio.device)
    mels = [(bands @ power + _FLOOR).log() for power in powers]
    soft = [one * (0.5 * (_COMPRESSION - 1.0) * log).exp() for one, log in zip((found, wanted), logs, strict=True)]
    magnitudes = [(0.5 * _COMPRESSION * log).exp() for log in logs]
    gap = soft[0] - soft[1]
    distance = (gap.real.square() + gap.imag.square() + 1e-7).sqrt()
    voiced = F.interpolate(voicing[:, None], size=found.shape[2], mode="linear")
    return {
        "log": ((logs[0] - logs[1]).abs() * weight).mean(),
        "mel": (mels[0] - mels[1]).abs().mean(),
        "complex": (distance * weight * voiced).mean(),
        "magnitude": ((magnitudes[0] - magnitudes[1]).abs() * weight).mean(),
    }


class Hints(nn.Module):
    """Training only: heads that read the phase of the voice's partials off the decoder's layers, so that they learn it.

    ``harmonics[i]`` are the partials that the output of decoder block ``i`` must tell; ``channels[i]`` its width.
    """

    def __init__(self, harmonics: Sequence[Sequence[int]], channels: Sequence[int]) -> None:
        super().__init__()
        self.harmonics = tuple(tuple(partials) for partials in harmonics)
        self.heads = nn.ModuleList(
            nn.Conv1d(width, 2 * len(partials), 1) for width, partials in zip(channels, self.harmonics, strict=False)
        )

    def forward(self, layers: Sequence[Tensor], segments: Segments, skip: int) -> Tensor:
        """Mean squared error of voicing times cosine and sine; the first ``skip`` latents are not counted."""
        latents = segments.latents.shape[1]
        loss = segments.voicing.new_zeros(())
        for head, partials, layer in zip(self.heads, self.harmonics, layers, strict=False):
            rate = layer.shape[2] // latents
            phase = segments.at(segments.phase, rate)[:, None]
            angles = phase * torch.tensor(partials, dtype=phase.dtype, device=phase.device)[:, None]
            wanted = segments.at(segments.voicing, rate)[:, None] * torch.cat((angles.cos(), angles.sin()), 1)
            error = (head(layer).float() - wanted).square()[..., skip * rate :]
            loss = loss + error.mean() / max(len(self.heads), 1)
        return loss
