"""A decoder that predicts spectra and puts them together by an inverse short-time Fourier transform.

Convolving up to 44.1 kHz is what the S1-DAC decoder spends its time on. This one stays at a few frames per latent: a
network (as in Vocos: ConvNeXt blocks, then a linear head) predicts two filters for every frame. One shapes a train of
pulses that follows the pitch, the other shapes noise (the source-filter model, as in the neural source-filter vocoders
and in DDSP); their sum goes through the inverse transform and is overlapped and added. Everything above half of the
output's band is empty, so spectra are computed at half the rate and transformed back at the full one.

Streaming is exact: the network is causal, the pulses' phase and the noise's position go on from piece to piece, and a
sample is put out when the last frame that reaches it is there. So audio lags behind the latents by three frames.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echo.model.autoencoder.config import SourceConfig, SpectralDecoderConfig
from echo.model.autoencoder.conv import CausalConv1d, ConvNeXtBlock
from echo.model.autoencoder.history import History
from echo.types import SAMPLE_RATE

#: Frames that overlap at every sample: the hop is a quarter of the window.
OVERLAP = 4
#: What squared Hann windows at this overlap add up to.
_OVERLAPPED = 1.5
#: Samples of noise before it repeats: three seconds at half the rate.
_NOISE = 1 << 16
#: Logarithm of the filters' magnitudes before training, and the most that they may reach.
FIRST_LEVEL, _HIGHEST_LEVEL = -5.0, 3.0
#: Least voicing for the pitch to count; the phase is followed fully from ``_SURE`` on.
_LEAST_VOICING, _SURE = 0.1, 0.4
#: Octaves that the pitch may be away from its reference.
_OCTAVES = (-1.5, 2.0)
#: Parts of a turn: phases that only run on are counted in these, whose sums are the same in whatever pieces.
_TURN = 1 << 32
#: Harmonics reach up to this share of half the rate.
_HIGHEST_HARMONIC = 0.98


class SpectralDecoder(nn.Module):
    """Latents -> audio, ``config.delay`` samples late.

    Args:
        config: The sizes.
        latent_dim: Channels of the autoencoder's vectors.
    """

    def __init__(self, config: SpectralDecoderConfig, latent_dim: int) -> None:
        super().__init__()
        self.config = config
        self.hop = config.fft // OVERLAP
        self.rate = SAMPLE_RATE // config.oversampling
        dim = config.dim
        self.embed = CausalConv1d(latent_dim, dim, 3, weight_norm=False)
        self.context = nn.ModuleList(ConvNeXtBlock(dim) for _ in range(config.context_layers))
        self.expand = nn.Linear(dim, config.frames_per_latent * dim)
        self.blocks = nn.ModuleList(ConvNeXtBlock(dim) for _ in range(config.layers))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        #: The loudness of every bin straight from the latents; the network adds to it. Where latents are linear in the
        #: logarithm of a spectrum, as computed ones are, most of what there is to say is said here.
        self.direct = nn.Linear(latent_dim, config.frames_per_latent * config.fft // 2)
        #: Per bin: the pulses' filter (logarithm of magnitude, real and imaginary part of its direction), the noise's.
        self.head = nn.Linear(dim, 4 * config.fft // 2)

    def forward(self, z_q: Tensor, history: History) -> Tensor:
        """Vectors [batch, latent_dim, n] -> audio [batch, 1, n · frames · hop · oversampling] in -1..1."""
        spectra = self.spectra(z_q, z_q, history)
        return self.sound(spectra, history, oversampling=self.config.oversampling)[:, None]

    def spectra(self, z_q: Tensor, source: Tensor, history: History) -> Tensor:
        """Complex spectra [batch, frames, fft / 2]; a sine of amplitude 1 has magnitude 1.

        Args:
            z_q: Vectors [batch, latent_dim, n] that the network sees.
            source: Vectors that pitch and phase are read from; in training those may be the clean ones.
            history: What came before.
        """
        filters = self._filters(z_q, history).float()
        level, real, imaginary, hiss = filters.chunk(4, -1)
        loudness = self._loudness(z_q, history).float()
        level, hiss = level + loudness, hiss + loudness
        pulses, noise = self._excitation(source.float(), history)
        real = real + 1.0
        direction = torch.complex(real, imaginary) * (real.square() + imaginary.square() + 1e-4).rsqrt()
        shaped: Tensor = pulses * direction * _magnitude(level) + noise * _magnitude(hiss)
        return shaped

    def sound(self, spectra: Tensor, history: History, *, oversampling: int) -> Tensor:
        """Spectra [batch, frames, bins] -> audio [batch, frames · hop · oversampling], three frames late."""
        size = self.config.fft * oversampling
        # The scale of ``spectra`` is a sine's amplitude, which a Hann window's sum halves.
        spectra = spectra * (self.config.fft / 4 * oversampling)
        frames = torch.fft.irfft(F.pad(spectra, (0, size // 2 + 1 - spectra.shape[-1])), size)
        frames = frames * torch.hann_window(size, device=frames.device)
        quarters = history.prepend(frames, OVERLAP - 1, dim=1).chunk(OVERLAP, 2)
        count = spectra.shape[1]
        parts = [quarters[OVERLAP - 1 - late][:, late : late + count] for late in range(OVERLAP)]
        audio = torch.stack(parts).sum(0).flatten(1) / _OVERLAPPED
        return audio.clamp(-1.0, 1.0)

    def _filters(self, z_q: Tensor, history: History) -> Tensor:
        """[batch, latent_dim, n] -> [batch, frames, 4 · bins]."""
        x = self.embed(z_q.to(self.head.weight.dtype), history)
        for block in self.context:
            x = block(x, history)
        x = self.expand(x.transpose(1, 2))
        x = x.reshape(x.shape[0], -1, self.config.dim).transpose(1, 2)
        for block in self.blocks:
            x = block(x, history)
        filters: Tensor = self.head(self.norm(x.transpose(1, 2)))
        return filters

    def _loudness(self, z_q: Tensor, history: History) -> Tensor:
        """[batch, latent_dim, n] -> [batch, frames, bins]; a frame's middle lies in the sub-frame before its own."""
        levels: Tensor = self.direct(z_q.to(self.direct.weight.dtype).transpose(1, 2))
        levels = levels.reshape(levels.shape[0], -1, self.config.fft // 2)
        return history.prepend(levels, 1, dim=1)[:, :-1]

    def _excitation(self, z_q: Tensor, history: History) -> tuple[Tensor, Tensor]:
        """Spectra of pulses and noise, each [batch, frames, bins]."""
        frames = z_q.shape[-1] * self.config.frames_per_latent
        signals = [self._pulses(z_q, self.config.source, history), self._noise(z_q, frames, history)]
        fft = self.config.fft
        window = torch.hann_window(fft, device=z_q.device)
        found = []
        for signal, scale in zip(signals, (fft / 4, math.sqrt(float(window.square().sum()))), strict=True):
            joined = history.prepend(signal, fft - self.hop)
            spectrum = torch.fft.rfft(joined.unfold(1, fft, self.hop) * window)
            found.append(spectrum[..., : fft // 2] / scale)
        return found[0], found[1]

    def _pulses(self, z_q: Tensor, source: SourceConfig, history: History) -> Tensor:
        """Pulses [batch, samples] whose harmonics have amplitude 1, as loud as speech is voiced."""
        voicing, octaves = self._borders(z_q, source, history)
        hertz = source.reference_hz * 2.0**octaves
        before = history.prepend(torch.stack((voicing, hertz), 1), 1)
        advance = math.tau * self.hop / self.rate * 0.5 * (before[:, 1, 1:] + before[:, 1, :-1])
        if source.follow:
            cosine, sine = z_q[:, source.phase[0::2]], z_q[:, source.phase[1::2]]
            measured = torch.atan2(sine, cosine).transpose(1, 2).flatten(1)
            follow = source.follow * (voicing / _SURE).clamp(0.0, 1.0)
            starts, steps = _followed(advance, measured, follow, history)
        else:
            starts, steps = _run_on(advance, history), advance
        share = torch.arange(self.hop, device=z_q.device) / self.hop
        phase = starts[..., None] + steps[..., None] * share
        count = (_HIGHEST_HARMONIC * math.pi * self.hop / steps.clamp(min=1e-3)).floor().clamp(1, self.config.fft // 2)
        loudness = before[:, 0, :-1, None] + (before[:, 0, 1:] - before[:, 0, :-1])[..., None] * share
        return (_pulse_train(phase, count[..., None]) * loudness).flatten(1)

    def _borders(self, z_q: Tensor, source: SourceConfig, history: History) -> tuple[Tensor, Tensor]:
        """Voicing and octaves above the reference, [batch, frames] each, at the ends of frames.

        The latents hold them at some of these places. The others are interpolated, the pitch weighted by the voicing.
        """
        values = torch.stack((z_q[:, source.voicing], z_q[:, source.pitch])).transpose(2, 3).flatten(2)
        voicing, pitch = values[0].clamp(0.0, 1.0), values[1]
        between = self.config.frames_per_latent // len(source.voicing)
        before = history.prepend(torch.stack((voicing, pitch), 1), 1)
        shares = torch.arange(1, between + 1, device=z_q.device) / between
        left, right = before[:, :, :-1, None], before[:, :, 1:, None]
        spread = (left + (right - left) * shares).flatten(2)
        octaves = spread[:, 1] / (source.scale * spread[:, 0].clamp(min=_LEAST_VOICING))
        return spread[:, 0], octaves.clamp(*_OCTAVES)

    def _noise(self, z_q: Tensor, frames: int, history: History) -> Tensor:
        """Noise [batch, samples] of variance 1, which depends on nothing but the place in the stream."""
        start = history.advance(z_q, frames)
        places = start[:, None] * self.hop + torch.arange(frames * self.hop, device=z_q.device)
        return _noise_table(str(z_q.device))[places % _NOISE]


def _followed(advance: Tensor, measured: Tensor, follow: Tensor, history: History) -> tuple[Tensor, Tensor]:
    """Phases at the starts of frames, and by how much they turn in each, [batch, frames], drawn to measured ones."""

    def track(phase: Tensor) -> tuple[Tensor, Tensor]:
        starts, steps = [], []
        for ahead, wanted, share in zip(advance.unbind(1), measured.unbind(1), follow.unbind(1), strict=True):
            error = wanted - phase - ahead
            error = error - math.tau * (error / math.tau).round()
            starts.append(phase)
            steps.append(ahead + share * error)
            phase = torch.remainder(phase + steps[-1], math.tau)
        return torch.stack((torch.stack(starts, 1), torch.stack(steps, 1))), phase

    starts, steps = history.carry(advance.new_zeros(advance.shape[0]), track).unbind(0)
    return starts, steps


def _run_on(advance: Tensor, history: History) -> Tensor:
    """Phases at the starts of frames [batch, frames] that turn by ``advance`` in each."""
    counted = (advance * (_TURN / math.tau)).round().long()

    def track(phase: Tensor) -> tuple[Tensor, Tensor]:
        ends = phase[:, None] + counted.cumsum(1)
        return torch.cat((phase[:, None], ends[:, :-1]), 1) % _TURN, ends[:, -1] % _TURN

    starts = history.carry(counted.new_zeros(counted.shape[0]), track)
    return starts.to(advance.dtype) * (math.tau / _TURN)


def _magnitude(level: Tensor) -> Tensor:
    return (level + FIRST_LEVEL).clamp(max=_HIGHEST_LEVEL).exp()


def _pulse_train(phase: Tensor, count: Tensor) -> Tensor:
    """Sum of ``count`` cosines of the multiples of ``phase``, in closed form (Dirichlet's kernel)."""
    half = 0.5 * phase
    below = 2.0 * half.sin()
    peak = below.abs() < 2e-3
    kernel = ((2.0 * count + 1.0) * half).sin() / torch.where(peak, torch.ones_like(below), below)
    return torch.where(peak, count.expand_as(kernel), kernel - 0.5)


_TABLES: dict[str, Tensor] = {}


def _noise_table(device: str) -> Tensor:
    """The noise [_NOISE] on a device: normal numbers from a counter, the same on every machine."""
    if device not in _TABLES:
        # SplitMix64's output function on 1, 2, 3, ..., then Box and Muller's transform.
        with np.errstate(over="ignore"):
            x = np.arange(1, 2 * _NOISE + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            x ^= x >> np.uint64(31)
        uniform = ((x >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53
        radius, angle = np.sqrt(-2.0 * np.log(uniform[:_NOISE])), math.tau * uniform[_NOISE:]
        _TABLES[device] = torch.from_numpy((radius * np.cos(angle)).astype(np.float32)).to(device)
    return _TABLES[device]
