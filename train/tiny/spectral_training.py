"""Trains the spectral decoder: analytic latents -> audio, at 22.05 kHz, which its spectra do not exceed."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import soundfile
import torch
from torch import Tensor, nn

from echo.model.autoencoder import Autoencoder
from echo.model.autoencoder.mel import SILENCE
from echo.model.autoencoder.spectral import FIRST_LEVEL, SpectralDecoder
from echo.types import SAMPLE_RATE
from train.tiny import optim
from train.tiny.codec_data import Material, Segments, draw
from train.tiny.codec_losses import DecoderWeights, SpectralLoss, log_distance, weigh
from train.tiny.codec_model import Fresh, embedded, set_small_weights
from train.tiny.corpus import RATE
from train.tiny.discriminator import Discriminators
from train.tiny.latents import HOP, LATENT_SIZE, MEL, PHASE, SUB_FRAMES, VOICING, Analysis, mel_filters
from train.tiny.loop import advance
from train.tiny.precision import precision

#: Logarithm of the noise's first loudness against the pulses'; it fills up what voiced speech leaves.
_NOISE_BELOW = -1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class SpectralOptions:
    """How the spectral decoder is trained.

    batch, length   segments of a step and their latents
    skip            latents at a segment's beginning that do not count, for want of what came before
    lr              base rate of AdamW; it falls as ``(1 - progress) ** power``
    average         share of the running average of the weights that a step keeps; the average is what is exported
    windows         of the spectral losses at 22.05 kHz; each step uses ``windows_per_step`` of them in turn
    mel_highest     where the mel bands of the losses end, in hertz
    noise           largest spread of what is added to the latents that the network sees, as a transformer makes errors
    remade          share of the steps that take the latents as the transformer makes them, where there are such
    gan_from        share of the run from which the discriminators take part; 1 = never
    gan_every       they take part in one step of so many
    gan_relative    they see phases against the frame before: for pulses that do not follow the speech's own phases
    bf16            networks in bfloat16, spectra and losses in float32; unset: where a CPU has instructions for it
    """

    batch: int = 8
    length: int = 20
    skip: int = 4
    lr: float = 1e-3
    power: float = 0.9
    warm_up: int = 100
    clip: float = 5.0
    average: float = 0.995
    windows: tuple[int, ...] = (128, 256, 512, 1024, 2048)
    windows_per_step: int = 3
    mel_highest: float = 11_000.0
    noise: float = 0.1
    remade: float = 0.5
    gan_from: float = 0.2
    gan_every: int = 1
    gan: float = 0.5
    features: float = 1.0
    gan_lr: float = 3e-4
    gan_windows: tuple[int, ...] = (256, 512, 1024)
    gan_relative: bool = False
    bf16: bool | None = None
    weights: DecoderWeights = field(
        default_factory=lambda: DecoderWeights(log=1.0, mel=2.0, complex=1.5, magnitude=1.0, wave=0.0)
    )


class SpectralPath(nn.Module):
    """The spectral decoder of an autoencoder, with the whole one's state-dict keys."""

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.latent_dim = model.config.latent_dim
        assert isinstance(model.decoder, SpectralDecoder)
        self.decoder: SpectralDecoder = model.decoder

    @property
    def delay(self) -> int:
        """Samples at 22.05 kHz by which the audio lags behind the latents."""
        return self.decoder.config.delay // self.decoder.config.oversampling

    def forward(self, latents: Tensor, source: Tensor) -> Tensor:
        """Latents ``[b, n, 80]`` that the network sees, and those of the source -> audio ``[b, n · 1024]``, late."""
        history = Fresh()
        noisy, clean = embedded(latents, self.latent_dim), embedded(source, self.latent_dim)
        return self.decoder.sound(self.decoder.spectra(noisy, clean, history), history, oversampling=1)


class SpectralTask:
    """The spectral decoder's training; ``held_out`` are (latents, samples at 44.1 kHz) of whole utterances.

    ``remade`` is the same material with the transformer's latents. ``analysis`` made the latents; with it the decoder
    knows from the beginning how loud every bin is.
    """

    def __init__(
        self,
        model: Autoencoder,
        material: Material,
        options: SpectralOptions,
        *,
        seed: int,
        held_out: Sequence[tuple[Tensor, Tensor]],
        start: Mapping[str, Tensor] | None = None,
        remade: Material | None = None,
        analysis: Analysis | None = None,
    ) -> None:
        self._options = options
        self._material = material
        self._remade = remade
        self._seed = seed
        self._held_out = held_out
        self._device = material.samples.device
        set_first_filters(model, analysis)
        self._path = SpectralPath(model).to(self._device)
        if start is not None:
            self._path.load_state_dict({key: start[key] for key in self._path.state_dict()})
        self._average = copy.deepcopy(self._path).requires_grad_(False)
        self._optimizers = optim.make_optimizers(
            self._path, lambda name, parameter: False, lr=options.lr, weight_decay=0.0, betas=(0.8, 0.99)
        )
        self._discriminators = Discriminators(options.gan_windows, rate=RATE, relative=options.gan_relative).to(
            self._device
        )
        self._discriminator_optimizers = optim.make_optimizers(
            self._discriminators, lambda name, parameter: False, lr=options.gan_lr, weight_decay=0.0, betas=(0.8, 0.98)
        )

    def parts(self) -> Mapping[str, tuple[nn.Module, Mapping[str, torch.optim.Optimizer]]]:
        """The averaged decoder, the one that is trained, and the discriminators."""
        return {
            "decoder": (nn.ModuleDict({"path": self._average}), {}),
            "trained": (self._path, self._optimizers),
            "critics": (self._discriminators, self._discriminator_optimizers),
        }

    def step(self, number: int, progress: float) -> dict[str, Tensor]:
        """One batch."""
        options = self._options
        segments = self._draw(number)
        with self._precision():
            audio = self._path(self._noisy(segments.latents, number), segments.latents)
        first, late = options.skip * HOP, self._path.delay
        made, real = audio[:, first + late :], segments.audio[:, first:-late]
        voicing = segments.at(segments.voicing, 4)[:, 4 * options.skip : -late * 4 // HOP]
        loss_of = SpectralLoss(self._windows(number), rate=RATE, mel_highest=options.mel_highest)
        terms = loss_of.terms(made, real, voicing)
        loss = weigh(terms, options.weights)
        judged = progress >= options.gan_from and number % options.gan_every == 0
        if judged:
            with self._precision():
                wanted = self._discriminators(real)
                terms["adversarial"], terms["features"] = self._discriminators.decoder_losses(wanted, made)
            loss = loss + options.gan * terms["adversarial"] + options.features * terms["features"]
        loss.backward()  # type: ignore[no-untyped-call]
        share = optim.decay(progress, options.power) * optim.warm_up(number, options.warm_up)
        terms["gradient"] = advance(self._path, self._optimizers, share=share, clip=options.clip)
        if judged:
            with self._precision():
                terms["discriminators"] = self._discriminators.discriminator_loss(wanted, made)
            terms["discriminators"].backward()  # type: ignore[no-untyped-call]
            advance(self._discriminators, self._discriminator_optimizers, share=1.0, clip=options.clip)
        self._follow(number)
        return {"loss": loss} | terms

    @torch.no_grad()
    def measure(self, folder: Path) -> dict[str, float]:
        """Log-spectral distance in dB of decoded held-out utterances, which are kept as ``held_out_*.wav``."""
        distances = []
        for number, (latents, wanted) in enumerate(self._held_out):
            z_q = embedded(latents[None].to(self._device), self._average.latent_dim)
            audio = self._average.decoder(z_q, Fresh())[0, 0].float().cpu()
            late = self._average.decoder.config.delay
            distances.append(log_distance(audio[late:], wanted[: audio.shape[0] - late]))
            path = folder / f"held_out_{number}.wav"
            soundfile.write(path, audio.numpy(), SAMPLE_RATE)
        return {"held_out_db": sum(distances) / len(distances)} if distances else {}

    def _precision(self) -> torch.autocast:
        return precision(self._device, self._options.bf16)

    @torch.no_grad()
    def _follow(self, number: int) -> None:
        # At the beginning the average is of what there is, not of the first weights.
        keep = min(self._options.average, (number + 1) / (number + 10))
        own = dict(self._path.named_parameters())
        for name, average in self._average.named_parameters():
            average.lerp_(own[name], 1.0 - keep)

    def _windows(self, number: int) -> tuple[int, ...]:
        count, per_step = len(self._options.windows), self._options.windows_per_step
        return tuple(self._options.windows[(number * per_step + i) % count] for i in range(min(per_step, count)))

    def _draw(self, number: int) -> Segments:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + number)
        material = self._material
        if self._remade is not None and float(torch.rand((), generator=generator)) < self._options.remade:
            material = self._remade
        options = self._options
        return draw(material, batch=options.batch, length=options.length, generator=generator, native=True)

    def _noisy(self, latents: Tensor, number: int) -> Tensor:
        """What the network sees; pitch and phase of the source stay clean, or high harmonics would be unlearnt."""
        generator = torch.Generator(self._device).manual_seed(self._seed * 1_000_003 + number)
        level = torch.rand((latents.shape[0], 1, 1), generator=generator, device=self._device)
        spread = torch.full((LATENT_SIZE,), self._options.noise, device=self._device)
        spread[VOICING] = 0.5 * self._options.noise
        spread[PHASE] = 0.0
        noise = torch.randn(latents.shape, generator=generator, device=self._device)
        loud = latents.abs().mean(2, keepdim=True).clamp(max=0.3) / 0.3
        return latents + noise * spread * level * (0.1 + 0.9 * loud)


@torch.no_grad()
def set_first_filters(model: Autoencoder, analysis: Analysis | None = None) -> None:
    """Draw the spectral decoder's weights: small residual branches, and filters that hardly depend on the latents.

    With ``analysis`` the loudness of every bin is what its mel bands tell.
    """
    decoder = model.decoder
    assert isinstance(decoder, SpectralDecoder)
    set_small_weights(decoder)
    for weight in (decoder.embed.conv.weight, decoder.expand.weight):
        nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
    nn.init.zeros_(decoder.direct.weight)
    if analysis is not None:
        filters = mel_filters(analysis.bands)[: decoder.config.fft // 2]
        per_bin = filters / filters.sum(1, keepdim=True).clamp(min=1e-6)
        bands = analysis.inverse.reshape(-1, SUB_FRAMES, analysis.bands.count)
        loudness = torch.einsum("csb,fb->sfc", bands, per_bin)
        decoder.direct.weight[:, MEL] = loudness.flatten(0, 1)
        # The analysis counts from silence, the decoder from its own first level.
        decoder.direct.bias.fill_(SILENCE - FIRST_LEVEL)
        decoder.head.bias[-filters.shape[0] :] = _NOISE_BELOW
