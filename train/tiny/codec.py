"""Trains the codec: first quantiser and encoder (audio -> latents), then the decoder (latents -> audio)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from echo.errors import ConfigError
from echo.model.autoencoder import Autoencoder, AutoencoderConfig
from echo.model.autoencoder.config import (
    QuantizerConfig,
    SourceConfig,
    SpectralDecoderConfig,
    SpectralEncoderConfig,
    TransformerConfig,
)
from echo.types import SAMPLE_RATE
from train.tiny import state
from train.tiny.budget import Budget
from train.tiny.codec_data import REACH, Material, doubled, keys_of, prepare
from train.tiny.codec_decoder import DecoderOptions, DecoderTask
from train.tiny.codec_encoder import EncoderOptions, EncoderTask, fit_quantizer
from train.tiny.codec_model import trainable, weight_normed
from train.tiny.codec_start import starting_codec
from train.tiny.corpus import RATE, Corpus
from train.tiny.latents import HOP, PHASE, PITCH, SUB_FRAMES, SUB_HOP, VOICING, WIDE, Analysis
from train.tiny.loop import Stage, Task, describe
from train.tiny.spectral_training import SpectralOptions, SpectralTask

_DECODER, _ENCODER, _QUANTIZER = "decoder", "encoder", "quantizer"
#: Held-out utterances that are decoded at every checkpoint, and their longest.
_LISTENED = 4
_LONGEST = 6.0
#: Longest speech in one go: the length of the rotary tables.
_TABLE = 768
#: The spectral decoder's window at 22.05 kHz: four sub-frames.
_FFT = HOP


@dataclass(frozen=True, slots=True, kw_only=True)
class SpectralShape:
    """Sizes of the spectral decoder, and how far its pulses follow the phase that the latents tell."""

    dim: int = 256
    layers: int = 6
    context_layers: int = 2
    follow: float = 1.0

    def config(self) -> SpectralDecoderConfig:
        """The decoder's configuration for analytic latents."""
        return SpectralDecoderConfig(
            dim=self.dim,
            layers=self.layers,
            context_layers=self.context_layers,
            frames_per_latent=SUB_FRAMES,
            fft=_FFT,
            oversampling=2,
            source=SourceConfig(
                voicing=tuple(range(VOICING.start, VOICING.stop)),
                pitch=tuple(range(PITCH.start, PITCH.stop)),
                phase=tuple(range(PHASE.start, PHASE.stop)),
                follow=self.follow,
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SpectralEncoderShape:
    """Sizes of the spectral encoder; its mel bands are those of a wide analysis."""

    dim: int = 128
    layers: int = 3

    def config(self) -> SpectralEncoderConfig:
        """The encoder's configuration for analytic latents."""
        return SpectralEncoderConfig(
            dim=self.dim,
            layers=self.layers,
            frames_per_latent=SUB_FRAMES,
            hop=SUB_HOP * SAMPLE_RATE // RATE,
            bands=WIDE.count,
            highest_hz=WIDE.highest,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecShape:
    """Sizes of the autoencoder; the defaults are those of the shipped model, whose decoder training can start from.

    ``post_dim``, ``post_layers`` and ``window`` (latents) are the transformer's before the decoder. ``spectral`` puts a
    spectral decoder of that size in the place of both. ``pre_layers`` are the transformer's behind the encoder;
    ``spectral_encoder`` puts a spectral encoder in the place of both.
    """

    latent_dim: int = 128
    decoder_dim: int = 128
    decoder_rates: tuple[int, ...] = (8, 4, 4, 2, 2)
    encoder_dim: int = 8
    encoder_rates: tuple[int, ...] = (16, 1, 2, 4, 4)
    resampling: tuple[int, ...] = (2, 2)
    post_dim: int = 192
    post_layers: int = 2
    post_intermediate: int = 512
    pre_layers: int = 2
    window: int = 16
    codebooks: int = 16
    codebook_size: int = 1024
    codebook_dim: int = 8
    spectral: SpectralShape | None = None
    spectral_encoder: SpectralEncoderShape | None = None

    def config(self) -> AutoencoderConfig:
        """The autoencoder's configuration."""
        computed = self.spectral_encoder is not None
        return AutoencoderConfig(
            encoder_dim=0 if computed else self.encoder_dim,
            encoder_rates=() if computed else self.encoder_rates,
            encoder_transformers=() if computed else (None,) * len(self.encoder_rates),
            latent_dim=self.latent_dim,
            decoder_dim=0 if self.spectral else self.decoder_dim,
            decoder_rates=() if self.spectral else self.decoder_rates,
            quantizer=QuantizerConfig(
                codebook_size=self.codebook_size,
                n_codebooks=self.codebooks - 1,
                semantic_codebook_size=self.codebook_size,
                codebook_dim=self.codebook_dim,
                downsample_factor=() if computed and self.spectral else self.resampling,
                pre_module=None
                if computed
                else self._transformer(self.latent_dim, self.pre_layers, 3 * self.latent_dim),
                post_module=None
                if self.spectral
                else self._transformer(self.post_dim, self.post_layers, self.post_intermediate),
            ),
            spectral=self.spectral.config() if self.spectral else None,
            spectral_encoder=self.spectral_encoder.config() if self.spectral_encoder else None,
        )

    def _transformer(self, dim: int, layers: int, intermediate: int) -> TransformerConfig:
        return TransformerConfig(
            input_dim=self.latent_dim,
            dim=dim,
            n_layer=layers,
            n_head=dim // 64,
            intermediate_size=intermediate,
            window_size=self.window,
            block_size=_TABLE,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecOptions:
    """How the codec is trained.

    start_from     model whose codec, at least the decoder, a fresh run starts from: a folder, or ``tiny`` for the one
                   in the package; empty = none
    continued      factor on the decoder's learning rates where it starts from a model
    hours          of the corpus that are used, at most
    encoder_share  part of the budget that the encoder gets
    polish_share   part of a run's minutes that come last: the decoder trains on, with latents of the finished DiT;
                   0 = no such stage (it made no difference that could be measured, see docs/training.md)
    """

    start_from: str = ""
    continued: float = 0.55
    hours: float = 3.0
    encoder_share: float = 0.3
    polish_share: float = 0.0
    save_minutes: float = 2.0
    shape: CodecShape = field(default_factory=CodecShape)
    decoder: DecoderOptions = field(default_factory=DecoderOptions)
    spectral: SpectralOptions = field(default_factory=SpectralOptions)
    encoder: EncoderOptions = field(default_factory=EncoderOptions)


def train_codec(
    options: CodecOptions,
    corpus: Corpus,
    analysis: Analysis,
    folder: Path,
    budget: Budget,
    *,
    seed: int,
    device: torch.device,
    only: str = "",
    remake: Callable[[Material, Sequence[str]], Material] | None = None,
    show_progress: bool = True,
) -> None:
    """Train until the budget is used up, continuing from what ``folder`` holds; ``load_codec`` reads the result.

    ``budget`` is shared: the encoder has its part first, because the transformer, trained at the same time, gets its
    reference clips from it; then the decoder. ``only`` (``decoder`` or ``encoder``) trains one of them, which then has
    the whole budget; the two do not depend on one another. ``remake`` turns the decoder's material, made of the
    recordings with these keys, into the one with the transformer's latents.
    """
    describe(folder, asdict(options))
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32: bfloat16's eight bits would be heard as noise
    material = prepare(
        corpus, analysis, folder / "material", hours=options.hours, seed=seed, progress=show_progress
    ).to(device)
    remade = remake(material, keys_of(folder / "material")) if remake is not None else None
    held_out = _held_out(corpus, analysis)
    shares = {_DECODER: 1.0 - options.encoder_share, _ENCODER: options.encoder_share}
    if not (folder / _QUANTIZER).exists():
        quantizer = trainable(options.shape.config()).quantizer
        fit_quantizer(quantizer, material.latents.float(), seed=seed)
        state.save(folder / _QUANTIZER, _codebooks(quantizer.state_dict()), {})
    for part in (_ENCODER, _DECODER) if not only else (only,):
        torch.manual_seed(seed)
        model = trainable(options.shape.config())
        fresh = state.load(folder / part / "checkpoint") is None
        start = _start(options, analysis, part) if fresh else None
        task: Task
        if part == _DECODER and options.shape.spectral:
            task = SpectralTask(
                model,
                material,
                options.spectral,
                seed=seed,
                held_out=held_out,
                start=start,
                remade=remade,
                analysis=analysis,
            )
        elif part == _DECODER:
            task = DecoderTask(
                model, material, _decoder(options), seed=seed, held_out=held_out, start=start, remade=remade
            )
        else:
            task = EncoderTask(
                model, material, options.encoder, seed=seed, held_out=held_out, start=start, analysis=analysis
            )
        stage = Stage(task, folder / part, save_minutes=options.save_minutes)
        stage.train(budget if only else _part(budget, shares[part]), show_progress=show_progress)


def load_codec(folder: Path, options: CodecOptions) -> Autoencoder | None:
    """Read the codec of a run, ready for inference and export, on the CPU; None until every part has a checkpoint."""
    decoder = state.load(folder / _DECODER / "checkpoint")
    if decoder is None:
        return None
    trained = state.under("decoder", decoder[0])
    weights = {key.removeprefix("path."): value for key, value in trained.items() if key.startswith("path.")}
    return _loaded(folder, options, weights, strict=True)


def encoder_steps(folder: Path) -> int:
    """How long the encoder of a run has trained; 0 where there is none that clips can go through."""
    encoder, quantizer = state.load(folder / _ENCODER / "checkpoint"), state.load(folder / _QUANTIZER)
    return int(encoder[1]["step"]) if encoder is not None and quantizer is not None else 0


def load_encoder(folder: Path, options: CodecOptions) -> Autoencoder | None:
    """Read what encodes clips, as ``load_codec`` does; its decoder may never have been trained."""
    return _loaded(folder, options, {}, strict=False)


def _loaded(folder: Path, options: CodecOptions, decoder: Mapping[str, Tensor], *, strict: bool) -> Autoencoder | None:
    encoder, quantizer = state.load(folder / _ENCODER / "checkpoint"), state.load(folder / _QUANTIZER)
    if encoder is None or quantizer is None:
        return None
    model = trainable(options.shape.config())
    model.load_state_dict({**decoder, **state.under("encoder", encoder[0]), **quantizer[0]}, strict=strict)
    return weight_normed(model).requires_grad_(False).eval()


def _codebooks(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"quantizer.{key}": value for key, value in weights.items() if "quantizers." in key}


def _part(budget: Budget, share: float) -> Budget:
    if budget.minutes is not None:
        return Budget(minutes=budget.minutes * share)
    return Budget(steps=round((budget.steps or 0) * share))


def _decoder(options: CodecOptions) -> DecoderOptions:
    if not options.start_from:
        return options.decoder
    rates = {name: getattr(options.decoder, name) * options.continued for name in ("lr", "muon_lr")}
    return replace(options.decoder, **rates)


def _start(options: CodecOptions, analysis: Analysis, part: str) -> Mapping[str, Tensor] | None:
    if not options.start_from:
        return None
    model, whole = starting_codec(options.start_from, analysis)
    if part == _DECODER and (model.config.spectral is None) != (options.shape.spectral is None):
        raise ConfigError(
            f"[codec]: start_from = {options.start_from!r} has the other kind of decoder; leave it empty, or leave out "
            "or give [codec.shape.spectral]."
        )
    return model.state_dict() if part == _DECODER or whole else None


def _held_out(corpus: Corpus, analysis: Analysis) -> list[tuple[Tensor, Tensor]]:
    """(latents, samples at 44.1 kHz) of some held-out utterances, each by another speaker."""
    chosen: dict[str, int] = {}
    for index in (*corpus.split("heldout_text"), *corpus.split("heldout_speaker")):
        recording = corpus.seconds(index)
        if recording <= _LONGEST:
            chosen.setdefault(corpus[index].speaker, index)
        if len(chosen) == _LISTENED:
            break
    found = []
    for index in chosen.values():
        samples = torch.as_tensor(corpus[index].samples)
        whole = F.pad(samples, (REACH // 2, -len(samples) % HOP + REACH // 2))
        found.append((analysis.latents(samples), doubled(whole[None])[0]))
    return found
