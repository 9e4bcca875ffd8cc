"""The roofline: the least a stage of the model can cost, and the most a device can do.

Costs follow from the configuration alone. One multiply-add is two operations. Norms, activations and rotations are left
out: under one per cent. Bytes are those that no implementation avoids: every weight once, and every attended key and
value once. The device's peaks are measured: a large matrix product and a large copy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from echo.model.autoencoder.config import (
    AutoencoderConfig,
    SpectralDecoderConfig,
    SpectralEncoderConfig,
    TransformerConfig,
)
from echo.model.network.config import DiTConfig

_RESIDUAL_UNITS = 3
#: Kernel of the convolutions of residual units, ConvNeXt blocks and at the ends of encoder and decoder.
_KERNEL = 7


@dataclass(frozen=True, slots=True)
class Cost:
    """Floating-point operations and bytes of a stage."""

    flops: float
    bytes: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.bytes + other.bytes)


def dense_weights(config: DiTConfig) -> int:
    """Weights of the DiT that every latent of a step passes: self-attention, feed-forward, projections."""
    size = config.model_size
    layer = 5 * size * size + 3 * size * config.intermediate_size
    return config.num_layers * layer + 2 * config.latent_size * size


def step(config: DiTConfig, size: int, keys: Sequence[int], width: int) -> Cost:
    """One Euler step of a block, without the modulation, which is computed once per schedule.

    size   latents of the block
    keys   per row the context keys it attends to
    width  bytes per number
    """
    weights = dense_weights(config)
    seen = [size + n for n in keys]
    attention = sum(4 * size * n * config.model_size * config.num_layers for n in seen)
    kv = sum(2 * n * config.model_size * config.num_layers for n in seen)
    return Cost(2 * weights * size * len(keys) + attention, width * (weights + kv))


def text_encoder(config: DiTConfig, tokens: int, width: int) -> Cost:
    """Encoding a text of ``tokens`` bytes, BOS included, to keys and values for every layer of the DiT."""
    size = config.text_model_size
    encoded = _encoder(config.text_num_layers, size, config.text_intermediate_size, tokens, width)
    return encoded + _context(config, size, tokens, width)


def latent_encoder(config: DiTConfig, patches: int, width: int, *, past: int = 0) -> Cost:
    """Encoding patches of a voice, or of spoken latents after ``past`` others, to keys and values for every layer."""
    size = config.speaker_model_size
    encoded = _encoder(config.speaker_num_layers, size, config.speaker_intermediate_size, patches, width, past)
    projected = config.latent_size * config.speaker_patch_size * size
    return encoded + _context(config, size, patches, width) + _linear(projected, patches, width)


def decode(config: AutoencoderConfig, latents: int, width: int) -> Cost:
    """Latents to audio; attention counts the window in full."""
    frames, dim = latents, config.latent_dim
    if config.spectral is not None:
        return _spectral(config.spectral, dim, latents, width)
    assert config.quantizer.post_module is not None, "only a spectral decoder does without"
    cost = _transformer(config.quantizer.post_module, latents, width)
    for factor in reversed(config.quantizer.downsample_factor):
        frames *= factor
        # A transposed convolution as long as its stride: one input per output. Then a ConvNeXt block.
        cost += _linear(dim * dim, frames, width, stored=factor * dim * dim) + _convnext(dim, frames, width)
    channels = config.decoder_dim
    cost += _linear(_KERNEL * dim * channels, frames, width)
    for rate in config.decoder_rates:
        frames *= rate
        half = channels // 2
        cost += _linear(2 * channels * half, frames, width, stored=2 * rate * channels * half)
        cost += _residual_units(half, frames, width)
        channels = half
    return cost + _linear(_KERNEL * channels, frames, width)


def _spectral(config: SpectralDecoderConfig, latent_dim: int, latents: int, width: int) -> Cost:
    """The network of a spectral decoder; its Fourier transforms are a few percent of it."""
    frames, dim = latents * config.frames_per_latent, config.dim
    cost = _linear(3 * latent_dim * dim, latents, width) + _linear(config.frames_per_latent * dim * dim, latents, width)
    for _ in range(config.context_layers):
        cost += _convnext(dim, latents, width)
    for _ in range(config.layers):
        cost += _convnext(dim, frames, width)
    return cost + _linear(2 * config.fft * dim, frames, width)


def encode(config: AutoencoderConfig, latents: int, width: int) -> Cost:
    """Encoding audio of so many latents, the quantiser included."""
    dim, q = config.latent_dim, config.quantizer
    if config.spectral_encoder is not None:
        cost = _spectral_encoder(config.spectral_encoder, dim, latents, width)
    else:
        cost = _convolutions(config, latents, width)
    for entries in [q.semantic_codebook_size] + [q.codebook_size] * q.n_codebooks:
        cost += _linear(2 * dim * q.codebook_dim + q.codebook_dim * entries, latents, width)
    return cost


def _convolutions(config: AutoencoderConfig, latents: int, width: int) -> Cost:
    """S1-DAC's encoder, and what stands between it and the quantiser."""
    frames, channels = latents * config.samples_per_latent, config.encoder_dim
    cost = _linear(_KERNEL * channels, frames, width)
    for rate, transformer in zip(config.encoder_rates, config.encoder_transformers, strict=True):
        cost += _residual_units(channels, frames, width)
        frames //= rate
        cost += _linear(2 * rate * channels * 2 * channels, frames, width)
        channels *= 2
        if transformer is not None:
            cost += _transformer(transformer, frames, width)
    dim, q = config.latent_dim, config.quantizer
    cost += _linear(3 * channels * dim, frames, width)
    for factor in q.downsample_factor:
        frames //= factor
        cost += _linear(factor * dim * dim, frames, width) + _convnext(dim, frames, width)
    assert q.pre_module is not None
    return cost + _transformer(q.pre_module, frames, width)


def _spectral_encoder(config: SpectralEncoderConfig, latent_dim: int, latents: int, width: int) -> Cost:
    """The network of a spectral encoder without its first layer, which is as small as its Fourier transforms."""
    frames, dim = latents * config.frames_per_latent, config.dim
    cost = _linear(config.frames_per_latent * (dim + config.bands) * latent_dim, latents, width)
    for _ in range(config.layers):
        cost += _convnext(dim, frames, width)
    return cost


def _linear(weights: int, positions: int, width: int, *, stored: int | None = None) -> Cost:
    """``weights`` multiply-adds per position; ``stored`` weights are read (default: as many)."""
    return Cost(2 * weights * positions, width * (weights if stored is None else stored))


def _encoder(layers: int, size: int, intermediate: int, n: int, width: int, past: int = 0) -> Cost:
    weights = layers * (5 * size * size + 3 * size * intermediate)
    attention = layers * 4 * n * (n + past) * size
    return _linear(weights, n, width) + Cost(attention, layers * 2 * past * size * width)


def _context(config: DiTConfig, size: int, n: int, width: int) -> Cost:
    return _linear(config.num_layers * 2 * size * config.model_size, n, width)


def _transformer(config: TransformerConfig, n: int, width: int) -> Cost:
    inner = config.n_head * config.head_dim
    weights = config.n_layer * (4 * config.dim * inner + 3 * config.dim * config.intermediate_size)
    if config.input_dim != config.dim:
        weights += 2 * config.input_dim * config.dim
    attention = config.n_layer * 4 * n * config.window_size * inner
    return _linear(weights, n, width) + Cost(attention, 0)


def _convnext(dim: int, n: int, width: int) -> Cost:
    return _linear(_KERNEL * dim + 8 * dim * dim, n, width)


def _residual_units(channels: int, n: int, width: int) -> Cost:
    return _linear(_RESIDUAL_UNITS * (_KERNEL + 1) * channels * channels, n, width)


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Measured peaks of a device in one number format."""

    dtype: str
    tflop_per_s: float
    gbyte_per_s: float

    def limit(self, flops: float, nbytes: float) -> tuple[float, str]:
        """Return the least seconds for so many operations and bytes, and which of the two decides."""
        compute, memory = flops / (self.tflop_per_s * 1e12), nbytes / (self.gbyte_per_s * 1e9)
        return (compute, "compute") if compute >= memory else (memory, "memory")


def gap(seconds: float, limit: float) -> float | None:
    """Return how many times the limit it took; None without a limit."""
    return round(seconds / limit, 2) if limit > 0 else None


def measure_ceilings(device: torch.device, dtype: torch.dtype) -> Ceilings:
    """Multiply and copy large tensors; the best of several tries. A copy counts the bytes read and written."""
    large = device.type != "cpu"
    n = 8192 if large else 1024
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    flops = 2 * n**3 / _best(lambda: torch.mm(a, b, out=out), device, 20)
    source = torch.zeros(2**30 if large else 2**28, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    rate = 2 * source.numel() / _best(lambda: target.copy_(source), device, 5)
    return Ceilings(str(dtype).removeprefix("torch."), round(flops / 1e12, 4), round(rate / 1e9, 2))


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _best(run: Callable[[], object], device: torch.device, tries: int) -> float:
    taken = []
    for _ in range(tries + 2):
        started = time.perf_counter()
        run()
        synchronize(device)
        taken.append(time.perf_counter() - started)
    return min(taken[2:])
