"""Shapes of the Fish S1-DAC autoencoder: the released ones, and any other read from a ``config.json``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from echo.errors import LoadError
from echo.types import SAMPLE_RATE, SAMPLES_PER_LATENT

#: Latents of a stream of more than a day: an hour is 77,520.
_COUNTABLE = 2_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerConfig:
    """One window-limited transformer; ``input_dim`` is the width around it, ``dim`` the width inside."""

    input_dim: int
    dim: int
    n_layer: int
    n_head: int
    intermediate_size: int
    window_size: int
    block_size: int  # rows of the rotary table: the longest sequence
    head_dim: int = 64
    rope_base: float = 10_000.0
    norm_eps: float = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizerConfig:
    """The residual quantiser and what stands before and after it."""

    codebook_size: int
    n_codebooks: int
    semantic_codebook_size: int
    codebook_dim: int
    downsample_factor: tuple[int, ...]
    pre_module: TransformerConfig | None  # None where a spectral encoder makes the latents themselves
    post_module: TransformerConfig | None  # None where a spectral decoder takes the latents themselves


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceConfig:
    """Channels of a latent that tell the spectral decoder how high the voice is, from its first frame to its last.

    ``voicing`` (0 to 1) and ``pitch`` (``scale`` · voicing · octaves above ``reference_hz``) at as many evenly spread
    places, ``phase`` as cosine and sine of the fundamental's phase at the end of every frame. ``follow`` says how far
    the pulses are moved to that phase: 1 is fully, 0 leaves them to the pitch alone.
    """

    voicing: tuple[int, ...]
    pitch: tuple[int, ...]
    phase: tuple[int, ...]
    scale: float = 1.5
    reference_hz: float = 130.0
    follow: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SpectralDecoderConfig:
    """A decoder by inverse Fourier transform; ``fft`` is its window at 44.1 kHz / ``oversampling``, four hops."""

    dim: int
    layers: int
    context_layers: int
    frames_per_latent: int
    fft: int
    oversampling: int
    source: SourceConfig

    @property
    def samples_per_latent(self) -> int:
        """Audio samples per latent at 44.1 kHz."""
        return self.frames_per_latent * self.fft // 4 * self.oversampling

    @property
    def delay(self) -> int:
        """Samples at 44.1 kHz by which the audio lags behind the latents: three frames."""
        return 3 * self.fft // 4 * self.oversampling


@dataclass(frozen=True, slots=True, kw_only=True)
class SpectralEncoderConfig:
    """An encoder by Fourier transform; ``hop`` is its step at 44.1 kHz, ``highest_hz`` where its mel bands end."""

    dim: int
    layers: int
    frames_per_latent: int
    hop: int
    bands: int
    highest_hz: float

    @property
    def samples_per_latent(self) -> int:
        """Audio samples per latent at 44.1 kHz."""
        return self.frames_per_latent * self.hop


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoencoderConfig:
    """Everything that fixes the shapes of the autoencoder. ``encoder_transformers`` has one entry per rate.

    With ``spectral``, that decoder takes the place of the one of ``decoder_dim`` and ``decoder_rates``, which are then
    0 and empty, and of the quantiser's post-module. With ``spectral_encoder``, that encoder takes the place of the one
    of ``encoder_dim`` and ``encoder_rates``, and of the quantiser's pre-module. ``downsample_factor`` is empty where
    neither needs it.
    """

    encoder_dim: int
    encoder_rates: tuple[int, ...]
    encoder_transformers: tuple[TransformerConfig | None, ...]
    latent_dim: int
    decoder_dim: int
    decoder_rates: tuple[int, ...]
    quantizer: QuantizerConfig
    spectral: SpectralDecoderConfig | None = None
    spectral_encoder: SpectralEncoderConfig | None = None

    @property
    def samples_per_latent(self) -> int:
        """Audio samples per latent (2048 in every known model)."""
        if self.spectral_encoder is not None:
            return self.spectral_encoder.samples_per_latent
        return math.prod(self.encoder_rates) * math.prod(self.quantizer.downsample_factor)

    @property
    def max_encode_latents(self) -> int:
        """Longest single encode: no transformer on the way may run out of rotary table.

        A spectral encoder has no limit of its own but that of counting.
        """
        pre_module = self.quantizer.pre_module
        limits = [pre_module.block_size if pre_module is not None else _COUNTABLE]
        frames_per_latent = self.samples_per_latent
        for rate, transformer in zip(self.encoder_rates, self.encoder_transformers, strict=True):
            frames_per_latent //= rate
            if transformer is not None:
                limits.append(transformer.block_size // frames_per_latent)
        return min(limits)

    @property
    def max_decode_latents(self) -> int:
        """Longest single decode, streamed or not; a spectral decoder has no limit of its own but that of counting."""
        post_module = self.quantizer.post_module
        return post_module.block_size if post_module is not None else _COUNTABLE

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> AutoencoderConfig:
        """Read the ``ae`` section of a ``config.json``.

        ``pre_module`` and ``post_module`` may stand at the top level or in ``quantizer``, or one
        ``quantizer.transformer`` may describe both. ``encoder_transformer_layers`` gives the depth of each
        encoder block's transformer, whose width follows from the block; ``encoder_transformers`` gives them in
        full, as ``dataclasses.asdict`` of a config writes them. ``decoder_transformer_layers`` is
        accepted and has no effect, as in the reference. ``spectral`` describes a decoder by inverse Fourier transform;
        then there is no post-module, and no ``decoder_dim`` and ``decoder_rates``. ``spectral_encoder`` describes an
        encoder of that kind; then there is no pre-module, and no ``encoder_dim`` and ``encoder_rates``.

        Raises LoadError naming a missing or wrong field.
        """
        try:
            return _read(raw)
        except KeyError as error:
            raise LoadError(f"The autoencoder configuration lacks the field {error}.") from error
        except (TypeError, ValueError) as error:
            raise LoadError(f"The autoencoder configuration has a field of the wrong type: {error}.") from error


def _read(raw: Mapping[str, Any]) -> AutoencoderConfig:
    if not raw.get("causal", True):
        raise LoadError("The autoencoder configuration says causal=false; only causal models are supported.")
    quantizer: Mapping[str, Any] = raw["quantizer"]
    latent_dim = int(raw["latent_dim"])
    if int(quantizer.get("input_dim", latent_dim)) != latent_dim:
        raise LoadError("The autoencoder configuration has quantizer.input_dim different from latent_dim.")

    def module(name: str) -> TransformerConfig:
        section = raw.get(name) or quantizer.get(name) or quantizer.get("transformer")
        if section is None:
            raise KeyError(name)
        return _transformer(section, input_dim=latent_dim)

    spectral = _spectral(raw["spectral"], latent_dim) if raw.get("spectral") else None
    encoder = _spectral_encoder(raw["spectral_encoder"]) if raw.get("spectral_encoder") else None
    rates = () if encoder else tuple(int(rate) for rate in raw["encoder_rates"])
    config = AutoencoderConfig(
        encoder_dim=0 if encoder else int(raw["encoder_dim"]),
        encoder_rates=rates,
        encoder_transformers=() if encoder else _encoder_transformers(raw, len(rates)),
        latent_dim=latent_dim,
        decoder_dim=0 if spectral else int(raw["decoder_dim"]),
        decoder_rates=() if spectral else tuple(int(rate) for rate in raw["decoder_rates"]),
        quantizer=QuantizerConfig(
            codebook_size=int(quantizer["codebook_size"]),
            n_codebooks=int(quantizer["n_codebooks"]),
            semantic_codebook_size=int(quantizer["semantic_codebook_size"]),
            codebook_dim=int(quantizer["codebook_dim"]),
            downsample_factor=tuple(int(factor) for factor in quantizer["downsample_factor"]),
            pre_module=None if encoder else module("pre_module"),
            post_module=None if spectral else module("post_module"),
        ),
        spectral=spectral,
        spectral_encoder=encoder,
    )
    decoded = math.prod(config.decoder_rates) * math.prod(config.quantizer.downsample_factor)
    if spectral:
        decoded = spectral.samples_per_latent
    rate = int(raw.get("sample_rate", SAMPLE_RATE))
    if (config.samples_per_latent, decoded, rate) != (SAMPLES_PER_LATENT, SAMPLES_PER_LATENT, SAMPLE_RATE):
        raise LoadError(
            f"The autoencoder configuration encodes {config.samples_per_latent} and decodes {decoded} samples per "
            f"latent at {rate} Hz; only {SAMPLES_PER_LATENT} at {SAMPLE_RATE} Hz is supported."
        )
    return config


def _encoder_transformers(raw: Mapping[str, Any], count: int) -> tuple[TransformerConfig | None, ...]:
    """One transformer or None per encoder block; block i ends in ``encoder_dim`` · 2^(i + 1) channels."""
    widths = [int(raw["encoder_dim"]) * 2**i for i in range(1, count + 1)]
    if "encoder_transformers" in raw:
        given = zip(raw["encoder_transformers"], widths, strict=True)
        return tuple(_transformer(section, input_dim=width) if section else None for section, width in given)
    layers = zip(raw.get("encoder_transformer_layers") or (0,) * count, widths, strict=True)
    return tuple(
        # The reference derives these from the width: heads of 64, a feed-forward of three widths.
        TransformerConfig(
            input_dim=width,
            dim=width,
            n_layer=int(n),
            n_head=width // 64,
            intermediate_size=3 * width,
            window_size=int(raw["encoder_transformer"]["window_size"]),
            block_size=int(raw["encoder_transformer"]["block_size"]),
            rope_base=float(raw["encoder_transformer"].get("rope_base", 10_000)),
            norm_eps=float(raw["encoder_transformer"].get("norm_eps", 1e-5)),
        )
        if n
        else None
        for n, width in layers
    )


def _spectral(raw: Mapping[str, Any], latent_dim: int) -> SpectralDecoderConfig:
    source: Mapping[str, Any] = raw["source"]
    voicing, pitch, phase = (tuple(int(one) for one in source[name]) for name in ("voicing", "pitch", "phase"))
    config = SpectralDecoderConfig(
        dim=int(raw["dim"]),
        layers=int(raw["layers"]),
        context_layers=int(raw["context_layers"]),
        frames_per_latent=int(raw["frames_per_latent"]),
        fft=int(raw["fft"]),
        oversampling=int(raw["oversampling"]),
        source=SourceConfig(
            voicing=voicing,
            pitch=pitch,
            phase=phase,
            scale=float(source.get("scale", 1.5)),
            reference_hz=float(source.get("reference_hz", 130.0)),
            follow=float(source.get("follow", 1.0)),
        ),
    )
    frames = config.frames_per_latent
    if (
        not voicing
        or len(pitch) != len(voicing)
        or frames % len(voicing)
        or len(phase) != 2 * frames
        or not all(0 <= channel < latent_dim for channel in (*voicing, *pitch, *phase))
    ):
        raise LoadError(
            "The autoencoder configuration has a spectral.source that does not fit: voicing and pitch need equally "
            f"many channels that divide {frames} frames, phase two per frame, all below latent_dim {latent_dim}."
        )
    return config


def _spectral_encoder(raw: Mapping[str, Any]) -> SpectralEncoderConfig:
    config = SpectralEncoderConfig(
        dim=int(raw["dim"]),
        layers=int(raw["layers"]),
        frames_per_latent=int(raw["frames_per_latent"]),
        hop=int(raw["hop"]),
        bands=int(raw["bands"]),
        highest_hz=float(raw["highest_hz"]),
    )
    if config.bands < 1 or not 0 < config.highest_hz <= SAMPLE_RATE / 2:
        raise LoadError(
            f"The autoencoder configuration has a spectral_encoder of {config.bands} bands up to {config.highest_hz:g} "
            f"Hz; it needs at least one, and at most {SAMPLE_RATE // 2} Hz."
        )
    return config


def _transformer(raw: Mapping[str, Any], *, input_dim: int) -> TransformerConfig:
    return TransformerConfig(
        input_dim=input_dim,
        dim=int(raw["dim"]),
        n_layer=int(raw["n_layer"]),
        n_head=int(raw["n_head"]),
        intermediate_size=int(raw["intermediate_size"]),
        window_size=int(raw["window_size"]),
        block_size=int(raw["block_size"]),
        head_dim=int(raw.get("head_dim", 64)),
        rope_base=float(raw.get("rope_base", 10_000)),
        norm_eps=float(raw.get("norm_eps", 1e-5)),
    )


_RELEASED_PRE_POST = TransformerConfig(
    input_dim=1024, dim=1024, n_layer=8, n_head=16, intermediate_size=3072, window_size=128, block_size=4096
)

#: jordand/fish-s1-dac-min.
RELEASED = AutoencoderConfig(
    encoder_dim=64,
    encoder_rates=(2, 4, 8, 8),
    encoder_transformers=(
        None,
        None,
        None,
        TransformerConfig(
            input_dim=1024,
            dim=1024,
            n_layer=4,
            n_head=16,
            intermediate_size=3072,
            window_size=512,
            block_size=16_384,
        ),
    ),
    latent_dim=1024,
    decoder_dim=1536,
    decoder_rates=(8, 8, 4, 2),
    quantizer=QuantizerConfig(
        codebook_size=1024,
        n_codebooks=9,
        semantic_codebook_size=4096,
        codebook_dim=8,
        downsample_factor=(2, 2),
        pre_module=_RELEASED_PRE_POST,
        post_module=_RELEASED_PRE_POST,
    ),
)
