"""Trains the decoder: analytic latents -> audio."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import soundfile
import torch
from torch import Tensor, nn

from echo.model.autoencoder import Autoencoder
from echo.types import SAMPLE_RATE, SAMPLES_PER_LATENT
from train.tiny import optim
from train.tiny.codec_data import Material, Segments, draw
from train.tiny.codec_losses import DecoderWeights, Hints, SpectralLoss, log_distance, weigh
from train.tiny.codec_model import DecodePath, decoder_widths, grow, is_matrix, set_first_weights
from train.tiny.discriminator import Discriminators
from train.tiny.latents import LATENT_SIZE, PHASE, VOICING
from train.tiny.loop import advance


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderOptions:
    """How the decoder is trained.

    batch, length   segments of a step and their latents: more than the transformer's window, which at a segment's
                    beginning is not full yet, and in a stream always is
    skip            latents at a segment's beginning that do not count, for want of what came before
    lr, muon_lr     base rates of AdamW and of Muon; they fall as ``(1 - progress) ** power``
    compile         compile the network (CUDA only)
    windows         of the spectral losses; each step uses ``windows_per_step`` of them in turn
    noise           largest spread of what is added to the latents, as a transformer makes errors, too
    phase_noise     the same for the phases
    hints           partials that the decoder's blocks, from the first on, are taught to tell
    hint            weight of that, falling to ``hint_end`` over the run
    remade          share of the steps that take the latents as the transformer makes them, where there are such
    gan_from        share of the run from which the discriminators take part; 1 = never
    """

    batch: int = 6
    length: int = 22
    skip: int = 2
    lr: float = 6e-4
    muon_lr: float = 1e-3
    power: float = 0.9
    warm_up: int = 30
    clip: float = 5.0
    compile: bool = False
    windows: tuple[int, ...] = (256, 512, 1024, 2048)
    windows_per_step: int = 2
    noise: float = 0.1
    phase_noise: float = 0.12
    hints: tuple[tuple[int, ...], ...] = ((1, 2), (1, 2, 3, 4), (1, 2, 4, 8))
    hint: float = 1.5
    hint_end: float = 0.15
    remade: float = 0.5
    gan_from: float = 1.0
    gan: float = 0.5
    features: float = 1.0
    gan_lr: float = 3e-4
    gan_windows: tuple[int, ...] = (512, 1024)
    weights: DecoderWeights = field(default_factory=DecoderWeights)


class DecoderTask:
    """The decoder's training; ``held_out`` are (latents, samples at 44.1 kHz) of whole utterances.

    ``remade`` is the same material with the transformer's latents.
    """

    def __init__(
        self,
        model: Autoencoder,
        material: Material,
        options: DecoderOptions,
        *,
        seed: int,
        held_out: Sequence[tuple[Tensor, Tensor]],
        start: Mapping[str, Tensor] | None = None,
        remade: Material | None = None,
    ) -> None:
        self._options = options
        self._material = material
        self._remade = remade
        self._seed = seed
        self._held_out = held_out
        self._device = material.samples.device
        self._path = DecodePath(model).to(self._device)
        self._hints = Hints(options.hints, decoder_widths(model.config)).to(self._device)
        example = self._draw(0).latents
        set_first_weights(self._path, example)
        if start is not None:
            grow(self._path, start)
        compiled = options.compile and self._device.type == "cuda"
        self._forward: Callable[[Tensor], tuple[Tensor, list[Tensor]]]
        self._forward = torch.compile(self._path) if compiled else self._path
        self._trained = nn.ModuleDict({"path": self._path, "hints": self._hints})
        self._optimizers = optim.make_optimizers(
            self._trained, is_matrix, lr=options.lr, muon_lr=options.muon_lr, weight_decay=0.0, betas=(0.8, 0.98)
        )
        self._discriminators = Discriminators(options.gan_windows).to(self._device)
        self._discriminator_optimizers = optim.make_optimizers(
            self._discriminators, lambda name, parameter: False, lr=options.gan_lr, weight_decay=0.0, betas=(0.8, 0.98)
        )

    def parts(self) -> Mapping[str, tuple[nn.Module, Mapping[str, torch.optim.Optimizer]]]:
        """The decode path with its hint heads, and the discriminators."""
        return {
            "decoder": (self._trained, self._optimizers),
            "critics": (self._discriminators, self._discriminator_optimizers),
        }

    def step(self, number: int, progress: float) -> dict[str, Tensor]:
        """One batch."""
        options = self._options
        segments = self._draw(number)
        # The first row begins in silence, as streams do: nothing must be heard there, least of all a click.
        segments.latents[0, : options.skip] = 0.0
        audio, layers = self._forward(self._noisy(segments.latents, number))
        scored = slice(options.skip * SAMPLES_PER_LATENT, None)
        made, real = audio[:, scored].float(), segments.audio[:, scored]
        voicing = segments.at(segments.voicing, 4)[:, 4 * options.skip :]
        terms = SpectralLoss(self._windows(number)).terms(made, real, voicing)
        terms["start"] = audio[0, : scored.start].float().abs().mean()
        loss = weigh(terms, options.weights)
        terms["hint"] = self._hints(layers, segments, options.skip)
        loss = loss + (options.hint + (options.hint_end - options.hint) * progress) * terms["hint"]
        if progress >= options.gan_from:
            wanted = self._discriminators(real)
            terms["adversarial"], terms["features"] = self._discriminators.decoder_losses(wanted, made)
            loss = loss + options.gan * terms["adversarial"] + options.features * terms["features"]
        loss.backward()  # type: ignore[no-untyped-call]
        share = optim.decay(progress, options.power) * optim.warm_up(number, options.warm_up)
        terms["gradient"] = advance(self._trained, self._optimizers, share=share, clip=options.clip)
        if progress >= options.gan_from:
            terms["discriminators"] = self._discriminators.discriminator_loss(wanted, made)
            terms["discriminators"].backward()  # type: ignore[no-untyped-call]
            advance(self._discriminators, self._discriminator_optimizers, share=1.0, clip=options.clip)
        return {"loss": loss} | terms

    @torch.no_grad()
    def measure(self, folder: Path) -> dict[str, float]:
        """Log-spectral distance in dB of decoded held-out utterances, which are kept as ``held_out_*.wav``."""
        distances = []
        for number, (latents, wanted) in enumerate(self._held_out):
            audio = self._path(latents[None].to(self._device))[0][0].float().cpu()[: wanted.shape[0]]
            distances.append(log_distance(audio, wanted))
            path = folder / f"held_out_{number}.wav"
            soundfile.write(path, audio.numpy(), SAMPLE_RATE)
        return {"held_out_db": sum(distances) / len(distances)} if distances else {}

    def _windows(self, number: int) -> tuple[int, ...]:
        count, per_step = len(self._options.windows), self._options.windows_per_step
        return tuple(self._options.windows[(number * per_step + i) % count] for i in range(min(per_step, count)))

    def _draw(self, number: int) -> Segments:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + number)
        material = self._material
        if self._remade is not None and float(torch.rand((), generator=generator)) < self._options.remade:
            material = self._remade
        return draw(material, batch=self._options.batch, length=self._options.length, generator=generator)

    def _noisy(self, latents: Tensor, number: int) -> Tensor:
        generator = torch.Generator(self._device).manual_seed(self._seed * 1_000_003 + number)
        shape = (latents.shape[0], 1, 1)
        level = torch.rand(shape, generator=generator, device=self._device)
        spread = torch.full((LATENT_SIZE,), self._options.noise, device=self._device)
        spread[PHASE] = self._options.phase_noise
        spread[VOICING] = 0.5 * self._options.noise
        noise = torch.randn(latents.shape, generator=generator, device=self._device)
        # Silence is exactly zero; the transformer, too, makes smaller errors there.
        loud = latents.abs().mean(2, keepdim=True).clamp(max=0.3) / 0.3
        return latents + noise * spread * level * (0.1 + 0.9 * loud)
