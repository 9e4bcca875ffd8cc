"""Trains the encoder (audio -> analytic latents) and fits the quantiser's codebooks to latents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echo.errors import ConfigError
from echo.model.autoencoder import Autoencoder
from echo.model.autoencoder.quantizer import DownsampleQuantizer, VectorQuantizer
from echo.model.autoencoder.spectral_encoder import SpectralEncoder
from train.tiny import optim
from train.tiny.codec_data import Material, Segments, draw
from train.tiny.codec_model import EncodePath, grow, is_matrix, set_first_weights, set_small_weights
from train.tiny.latents import LATENT_SIZE, MEL, PHASE, PITCH, VOICING, Analysis
from train.tiny.loop import advance

_GROUPS = {"mel": MEL, "voicing": VOICING, "pitch": PITCH, "phase": PHASE}
_BETA = 0.3  # errors below this count squared, larger ones linearly
#: Latents that the codebooks are fitted to, and rounds of k-means.
_FITTED, _ROUNDS = 40_000, 8
#: A constant beside each projected residual, this many times its spread: lengths then count in the search by angle.
_LIFT = 4.0
#: Instead of zero in rows of weights that nothing depends on, because weight norm cannot express a row of zeros.
_NEARLY_NOTHING = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderOptions:
    """How the encoder is trained.

    batch, length   segments of a step and their latents: more than the transformer's window, which at a segment's
                    beginning is not full yet, and in a stream always is
    skip            latents at a segment's beginning that do not count, for want of what came before
    lr, muon_lr     base rates of AdamW and of Muon; they fall as ``(1 - progress) ** power``
    compile         compile the network (CUDA only)
    voicing, pitch, phase  weights of these latents beside the spectral ones; phases count where speech is voiced
    rest            weight of the vector's unused numbers, which should be zero
    """

    batch: int = 6
    length: int = 24
    skip: int = 2
    lr: float = 1e-3
    muon_lr: float = 2e-3
    power: float = 0.9
    warm_up: int = 30
    clip: float = 5.0
    compile: bool = False
    voicing: float = 2.0
    pitch: float = 2.0
    phase: float = 1.0
    rest: float = 0.1


class EncoderTask:
    """The encoder's training; ``held_out`` are (latents, samples at 44.1 kHz) of whole utterances.

    ``analysis`` made the latents: a spectral encoder knows from it how spectra become latents, and learns the rest.
    """

    def __init__(
        self,
        model: Autoencoder,
        material: Material,
        options: EncoderOptions,
        *,
        seed: int,
        held_out: Sequence[tuple[Tensor, Tensor]],
        start: Mapping[str, Tensor] | None = None,
        analysis: Analysis | None = None,
    ) -> None:
        self._options = options
        self._material = material
        self._seed = seed
        self._held_out = held_out
        self._device = material.samples.device
        self._path = EncodePath(model).to(self._device)
        if isinstance(model.encoder, SpectralEncoder):
            set_first_latents(model.encoder, analysis)
        else:
            set_first_weights(self._path, self._draw(0).audio)
        if start is not None:
            grow(self._path, start)
        compiled = options.compile and self._device.type == "cuda"
        self._forward: Callable[[Tensor], Tensor] = torch.compile(self._path) if compiled else self._path
        self._optimizers = optim.make_optimizers(
            self._path, is_matrix, lr=options.lr, muon_lr=options.muon_lr, weight_decay=0.0, betas=(0.9, 0.98)
        )

    def parts(self) -> Mapping[str, tuple[nn.Module, Mapping[str, torch.optim.Optimizer]]]:
        """The encode path."""
        return {"encoder": (self._path, self._optimizers)}

    def step(self, number: int, progress: float) -> dict[str, Tensor]:
        """One batch."""
        options = self._options
        segments = self._draw(number)
        made = self._forward(segments.audio)[:, options.skip :].float()
        wanted = segments.latents[:, options.skip :]
        errors = F.smooth_l1_loss(made[..., :LATENT_SIZE], wanted, beta=_BETA, reduction="none")
        voiced = (
            segments.at(segments.voicing, 4)[:, 4 * options.skip :].reshape(len(errors), -1, 4).repeat_interleave(2, 2)
        )
        errors = torch.cat((errors[..., : PHASE.start], errors[..., PHASE] * (0.2 + voiced)), -1)
        terms = {name: errors[..., part].mean() for name, part in _GROUPS.items()}
        weights = {"mel": 1.0, "voicing": options.voicing, "pitch": options.pitch, "phase": options.phase}
        sizes = {name: part.stop - part.start for name, part in _GROUPS.items()}
        loss = torch.stack([weights[name] * sizes[name] / LATENT_SIZE * terms[name] for name in terms]).sum()
        loss = loss + options.rest * made[..., LATENT_SIZE:].square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        share = optim.decay(progress, options.power) * optim.warm_up(number, options.warm_up)
        terms["gradient"] = advance(self._path, self._optimizers, share=share, clip=options.clip)
        return {"loss": loss} | terms

    @torch.no_grad()
    def measure(self, folder: Path) -> dict[str, float]:
        """Error of each group of latents on held-out utterances, relative to its size; 1 is knowing nothing.

        A group that is all zeros, as phases may be, has none.
        """
        error, size = torch.zeros(LATENT_SIZE), torch.zeros(LATENT_SIZE)
        for latents, audio in self._held_out:
            made = self._path(audio[None].to(self._device))[0, :, :LATENT_SIZE].float().cpu()
            error += (made - latents).square().sum(0)
            size += latents.square().sum(0)
        return {
            f"held_out_{name}": float((error[part].sum() / size[part].sum()).sqrt())
            for name, part in _GROUPS.items()
            if size[part].any()
        }

    def _draw(self, number: int) -> Segments:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + number)
        return draw(self._material, batch=self._options.batch, length=self._options.length, generator=generator)


@torch.no_grad()
def set_first_latents(encoder: SpectralEncoder, analysis: Analysis | None = None) -> None:
    """Draw a spectral encoder's weights, and set what turns log-mel spectra into latents, for good.

    Without ``analysis`` that, too, is to be learnt.
    """
    set_small_weights(encoder)
    nn.init.normal_(encoder.embed.weight, std=encoder.embed.in_features**-0.5)
    if analysis is None:
        return
    config = encoder.config
    if (analysis.bands.count, analysis.bands.highest) != (config.bands, config.highest_hz):
        raise ConfigError(
            f"The spectral encoder has {config.bands} mel bands up to {config.highest_hz:g} Hz, the analysis "
            f"{analysis.bands.count} up to {analysis.bands.highest:g} Hz; set [corpus] wide = true."
        )
    nn.init.zeros_(encoder.head.weight)
    nn.init.zeros_(encoder.direct.weight)
    encoder.direct.weight[MEL] = analysis.components.T
    encoder.direct.requires_grad_(False)


@torch.no_grad()
def fit_quantizer(quantizer: DownsampleQuantizer, latents: Tensor, *, seed: int) -> float:
    """Fit all codebooks to latents ``[n, 80]``, each to what the earlier ones leave; returns the relative error.

    A level looks at the principal components of its residual, all but one of the codebook's dimensions; the last
    dimension is constant (see ``_LIFT``).
    """
    generator = torch.Generator().manual_seed(seed)
    latents = latents.cpu().float()
    chosen = latents[torch.randperm(len(latents), generator=generator)[:_FITTED]]
    left = chosen.clone()
    for level in (*quantizer.semantic_quantizer.quantizers, *quantizer.quantizer.quantizers):
        left = _fit_level(cast(VectorQuantizer, level), left, generator)
    return float(left.square().sum().sqrt() / chosen.square().sum().sqrt())


def _fit_level(level: VectorQuantizer, residual: Tensor, generator: torch.Generator) -> Tensor:
    """Set one codebook and its projections; returns the residual that it leaves."""
    size, dim = level.codebook.weight.shape
    basis = torch.linalg.eigh(residual.T @ residual).eigenvectors.flip(1)[:, : dim - 1]
    points = residual @ basis
    lift = _LIFT * float(points.square().sum(1).mean().sqrt()) + 1e-6
    centres = _means(points, size, generator)
    level.codebook.weight[:] = torch.cat((centres, centres.new_full((size, 1), lift)), 1)
    level.in_proj.weight.zero_()
    level.in_proj.weight[:-1, :LATENT_SIZE, 0] = basis.T
    level.in_proj.weight[-1, -1, 0] = _NEARLY_NOTHING
    _bias(level.in_proj)[-1] = lift
    level.out_proj.weight.zero_()
    level.out_proj.weight[:LATENT_SIZE, :-1, 0] = basis
    # Numbers that the latents do not have, or that are always zero.
    empty = level.out_proj.weight.flatten(1).norm(dim=1) < _NEARLY_NOTHING
    level.out_proj.weight[empty] = 0.0
    level.out_proj.weight[empty, -1, 0] = _NEARLY_NOTHING
    _bias(level.out_proj)[empty] = -lift * _NEARLY_NOTHING
    vectors = F.pad(residual, (0, level.in_proj.weight.shape[1] - LATENT_SIZE)).T[None]
    return residual - level.lookup(level.nearest(vectors))[0, :LATENT_SIZE].T


def _bias(conv: nn.Conv1d) -> Tensor:
    bias = cast(Tensor, conv.bias)
    bias.zero_()
    return bias


def _means(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """k-means; centres that lose all their points stay where they are."""
    rows = torch.randint(len(points), (count,), generator=generator)
    centres = points[rows].clone()
    for _ in range(_ROUNDS):
        nearest = (points @ centres.T - 0.5 * centres.square().sum(1)).argmax(1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        counts = torch.zeros(count).index_add_(0, nearest, torch.ones(len(points)))
        used = counts > 0
        centres[used] = sums[used] / counts[used, None]
    return centres
