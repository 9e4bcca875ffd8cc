"""A small spectrogram GAN for the end of the decoder's training: gives hiss its grain and removes buzz."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echo.types import SAMPLE_RATE
from train.tiny.codec_losses import spectrum

#: Hz above which there is nothing to tell apart.
_HIGHEST = 8_500.0


class SpectrogramDiscriminator(nn.Module):
    """Tells the teacher's compressed complex spectrum (real and imaginary part as channels) from the decoder's.

    ``relative`` shows it every phase less the one a hop before, so that sounds whose phases differ by a constant look
    alike.
    """

    def __init__(self, window: int, channels: int = 16, *, rate: int = SAMPLE_RATE, relative: bool = False) -> None:
        super().__init__()
        self._window = window
        self._relative = relative
        self._bins = int(_HIGHEST / rate * window)
        widths = (2, channels, 2 * channels, 2 * channels)
        self.layers = nn.ModuleList(
            nn.Conv2d(a, b, (5, 3), stride=(2, 1), padding=(2, 1)) for a, b in itertools.pairwise(widths)
        )
        self.out = nn.Conv2d(widths[-1], 1, 3, padding=1)

    def forward(self, audio: Tensor) -> list[Tensor]:
        """Audio ``[b, n]`` -> activations of every layer, the classification last (1 = real, 0 = made)."""
        frames = spectrum(audio, self._window)[:, 1 : self._bins]
        power = frames.real.square() + frames.imag.square() + 1e-7
        frames = frames * power.pow(-0.35)
        if self._relative:
            frames = _advances(frames, power)
        x = 4.0 * torch.stack((frames.real, frames.imag), 1)
        found = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.1)
            found.append(x)
        return [*found, self.out(x)]


class Discriminators(nn.Module):
    """One discriminator per window (samples at ``rate``)."""

    def __init__(
        self, windows: Sequence[int], channels: int = 16, *, rate: int = SAMPLE_RATE, relative: bool = False
    ) -> None:
        super().__init__()
        self.each = nn.ModuleList(
            SpectrogramDiscriminator(window, channels, rate=rate, relative=relative) for window in windows
        )

    def forward(self, audio: Tensor) -> list[list[Tensor]]:
        """Every discriminator's activations on audio ``[b, n]``."""
        return [one(audio) for one in self.each]

    def discriminator_loss(self, wanted: Sequence[Sequence[Tensor]], made: Tensor) -> Tensor:
        """Least-squares loss of the discriminators themselves; ``wanted`` are their activations on the real audio."""
        losses = [
            (real[-1] - 1.0).square().mean() + one(made.detach())[-1].square().mean()
            for real, one in zip(wanted, self.each, strict=True)
        ]
        return torch.stack(losses).mean()

    def decoder_losses(self, wanted: Sequence[Sequence[Tensor]], made: Tensor) -> tuple[Tensor, Tensor]:
        """The decoder's losses (adversarial, feature matching); through them nothing flows back to the discriminators.

        ``wanted`` are their activations on the real audio.
        """
        self.requires_grad_(False)  # their weights' gradients would be computed, and thrown away
        found = self(made)
        self.requires_grad_(True)
        adversarial = [(got[-1] - 1.0).square().mean() for got in found]
        features = [
            (a - b.detach()).abs().mean() / (b.detach().abs().mean() + 1e-3)
            for got, real in zip(found, wanted, strict=True)
            for a, b in zip(got[:-1], real[:-1], strict=True)
        ]
        return torch.stack(adversarial).mean(), torch.stack(features).mean()


def _advances(frames: Tensor, power: Tensor) -> Tensor:
    """Frames ``[b, bins, n]`` from bin 1 on, with the phase less the one a hop before: ``[b, bins, n - 1]``.

    A bin's own frequency turns by a quarter per bin in a hop of a quarter window; that is taken out, so that the bins
    of one partial agree.
    """
    turns = torch.arange(1, frames.shape[1] + 1, device=frames.device) * (-0.5 * math.pi)
    before = frames[..., :-1].conj() * power[..., :-1].pow(-0.15)
    return frames[..., 1:] * before * torch.polar(torch.ones_like(turns), turns)[:, None]
