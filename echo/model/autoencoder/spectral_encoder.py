"""An encoder that computes spectra: for latents that are a function of them, as a spectral decoder's are.

S1-DAC's encoder spends its time on convolutions at 44.1 kHz, and has to learn what a spectrum is. Here log-mel spectra
and the autocorrelation are computed, per frame of a quarter latent, from the audio up to the frame's end. A linear
layer makes latents of the spectra, and a small causal network (ConvNeXt blocks) adds what is not linear in them: how
high the voice is, and whether there is one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from echo.model.autoencoder.config import SpectralEncoderConfig
from echo.model.autoencoder.conv import ConvNeXtBlock
from echo.model.autoencoder.history import History
from echo.model.autoencoder.mel import log_mel
from echo.types import SAMPLE_RATE

#: Hops of the window that spectra are of, and of the one in which the voice's period is looked for (46 ms).
_MEL_HOPS, _PERIOD_HOPS = 2, 4
#: Voices have a fundamental between these, in hertz.
_PITCH_RANGE = (67.0, 400.0)
#: Every so many samples the autocorrelation is looked at: at 22.05 kHz.
_LAG_STEP = 2
#: Root mean squares below and above which a window has no voice, and may have one fully.
_QUIET, _LOUD = 0.002, 0.008


class SpectralEncoder(nn.Module):
    """Audio -> latents, not quantised.

    Args:
        config: The sizes.
        latent_dim: Channels of the autoencoder's vectors.
    """

    def __init__(self, config: SpectralEncoderConfig, latent_dim: int) -> None:
        super().__init__()
        self.config = config
        frames, dim = config.frames_per_latent, config.dim
        self.embed = nn.Linear(config.bands + len(_lags()), dim)
        self.blocks = nn.ModuleList(ConvNeXtBlock(dim) for _ in range(config.layers))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(frames * dim, latent_dim)
        #: Latents straight from the log-mel spectra; the network adds to them.
        self.direct = nn.Linear(frames * config.bands, latent_dim)

    def forward(self, audio: Tensor, history: History) -> Tensor:
        """Audio [batch, 1, n · samples per latent] at 44.1 kHz -> [batch, latent_dim, n]."""
        mel, periods = self.spectra(audio, history)
        x = self.embed(torch.cat((mel, periods), -1).to(self.embed.weight.dtype)).transpose(1, 2)
        for block in self.blocks:
            x = block(x, history)
        features = self.norm(x.transpose(1, 2))
        latents: Tensor = self.head(self._joined(features)) + self.direct(self._joined(mel).to(features.dtype))
        return latents.transpose(1, 2)

    def spectra(self, audio: Tensor, history: History) -> tuple[Tensor, Tensor]:
        """Log-mel spectra [batch, frames, bands] and normalised autocorrelations [batch, frames, lags] of audio."""
        hop = self.config.hop
        joined = history.prepend(audio[:, 0].float(), (_PERIOD_HOPS - 1) * hop)
        windows = joined.unfold(1, _PERIOD_HOPS * hop, hop)
        mel = log_mel(windows[..., -_MEL_HOPS * hop :], SAMPLE_RATE, self.config.bands, self.config.highest_hz)
        return mel, _periodicity(windows)

    def _joined(self, frames: Tensor) -> Tensor:
        """[batch, frames, channels] -> [batch, latents, frames per latent · channels]."""
        return frames.reshape(frames.shape[0], -1, self.config.frames_per_latent * frames.shape[-1])


def _lags() -> range:
    """Periods, in samples at 44.1 kHz, that a voice may have."""
    return range(int(SAMPLE_RATE / _PITCH_RANGE[1]), int(SAMPLE_RATE / _PITCH_RANGE[0]) + 1, _LAG_STEP)


def _periodicity(windows: Tensor) -> Tensor:
    """Autocorrelation of windows [..., n] at the lags, [..., lags]: about 1 at a voice's period, 0 in silence."""
    size = windows.shape[-1]
    shape = torch.hann_window(size, device=windows.device)
    lags = _lags()
    chosen = slice(lags.start, lags.stop, lags.step)
    weighted = windows * shape
    raw = _autocorrelation(weighted)
    own = _autocorrelation(shape)
    # Divided by the window's own, so that long periods are not put at a disadvantage.
    found = raw[..., chosen] / raw[..., :1].clamp(min=1e-9) / (own[chosen] / own[0])
    level = (weighted.square().sum(-1, keepdim=True) / shape.square().sum()).sqrt()
    heard: Tensor = found * ((level - _QUIET) / (_LOUD - _QUIET)).clamp(0.0, 1.0)
    return heard


def _autocorrelation(windows: Tensor) -> Tensor:
    size = 2 * windows.shape[-1]
    found: Tensor = torch.fft.irfft(torch.fft.rfft(windows, size).abs().square(), size)
    return found
