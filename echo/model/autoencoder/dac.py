"""The Fish S1-DAC autoencoder: 44.1 kHz audio <-> one vector per 2048 samples. Strictly causal both ways.

A configuration may put a spectral encoder, a spectral decoder, or both in the place of S1-DAC's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echo.model.autoencoder.config import AutoencoderConfig
from echo.model.autoencoder.conv import (
    CausalConv1d,
    CausalConvTranspose1d,
    CausalSequential,
    ResidualUnit,
    Snake,
    fold_weight_norm,
)
from echo.model.autoencoder.history import History, PaddedHistory, Tails
from echo.model.autoencoder.quantizer import DownsampleQuantizer
from echo.model.autoencoder.spectral import SpectralDecoder
from echo.model.autoencoder.spectral_encoder import SpectralEncoder
from echo.model.autoencoder.transformer import WindowTransformer
from echo.model.network.layers import fuse_all

_DILATIONS = (1, 3, 9)
#: A batch is not cut into shorter pieces than this: below it the fixed cost of a piece dominates.
_MIN_PIECE = 16


class EncoderBlock(nn.Module):
    """Three residual units, a strided convolution to twice the channels, and for some blocks a transformer."""

    def __init__(self, channels: int, rate: int, transformer: nn.Module | None) -> None:
        super().__init__()
        self.block = CausalSequential(
            *(ResidualUnit(channels, dilation) for dilation in _DILATIONS),
            Snake(channels),
            CausalConv1d(channels, 2 * channels, 2 * rate, stride=rate),
            *([transformer] if transformer is not None else []),
        )

    def forward(self, x: Tensor, history: History) -> Tensor:
        """[batch, channels, frames] -> [batch, 2 · channels, frames / rate]."""
        return cast(Tensor, self.block(x, history))


class Encoder(nn.Module):
    """Audio -> frames."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = [CausalConv1d(1, config.encoder_dim, 7)]
        channels = config.encoder_dim
        for rate, transformer in zip(config.encoder_rates, config.encoder_transformers, strict=True):
            layers.append(EncoderBlock(channels, rate, WindowTransformer(transformer) if transformer else None))
            channels *= 2
        layers += [Snake(channels), CausalConv1d(channels, config.latent_dim, 3)]
        self.block = CausalSequential(*layers)

    def forward(self, audio: Tensor, history: History) -> Tensor:
        """[batch, 1, samples] -> [batch, latent_dim, samples / product of rates]."""
        return cast(Tensor, self.block(audio, history))


class DecoderBlock(nn.Module):
    """A transposed convolution to fewer channels and three residual units."""

    def __init__(self, in_channels: int, out_channels: int, rate: int) -> None:
        super().__init__()
        self.block = CausalSequential(
            Snake(in_channels),
            CausalConvTranspose1d(in_channels, out_channels, 2 * rate, stride=rate),
            *(ResidualUnit(out_channels, dilation) for dilation in _DILATIONS),
        )

    def forward(self, x: Tensor, history: History) -> Tensor:
        """[batch, in, frames] -> [batch, out, frames · rate]."""
        return cast(Tensor, self.block(x, history))


class Decoder(nn.Module):
    """Frames -> audio."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        channels = [config.decoder_dim // 2**level for level in range(len(config.decoder_rates) + 1)]
        self.model = CausalSequential(
            CausalConv1d(config.latent_dim, channels[0], 7),
            *(
                DecoderBlock(channels[level], channels[level + 1], rate)
                for level, rate in enumerate(config.decoder_rates)
            ),
            Snake(channels[-1]),
            CausalConv1d(channels[-1], 1, 7),
        )

    def forward(self, frames: Tensor, history: History) -> Tensor:
        """[batch, latent_dim, frames] -> [batch, 1, frames · product of rates] in -1..1."""
        return torch.tanh(self.model(frames, history))


class Autoencoder(nn.Module):
    """Encoder, quantiser and decoder with the released state-dict keys.

    ``max_piece`` (latents, all rows together) bounds the memory of long signals: they run through in pieces, with
    the same results. 64 need about 0.6 GB beside the weights in the released model, in float32.
    ``z_q`` is the sum of the codebook entries, [batch, latent_dim, n].
    """

    def __init__(self, config: AutoencoderConfig, *, max_piece: int = 64) -> None:
        super().__init__()
        self.config = config
        self.max_piece = max_piece
        own = config.spectral_encoder
        self.encoder = SpectralEncoder(own, config.latent_dim) if own else Encoder(config)
        self.quantizer = DownsampleQuantizer(config)
        self.decoder = SpectralDecoder(config.spectral, config.latent_dim) if config.spectral else Decoder(config)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the parameters."""
        return self.quantizer.first_codebook.dtype

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self.quantizer.first_codebook.device

    def transformers(self) -> dict[str, WindowTransformer]:
        """Every transformer by its key prefix (their tables are the only buffers)."""
        return {name: m for name, m in self.named_modules() if isinstance(m, WindowTransformer)}

    def fold_weight_norm(self) -> Autoencoder:
        """Turn the weight-normed convolutions into plain ones, for inference; returns self."""
        fold_weight_norm(self, self.dtype)
        return self

    def fuse(self) -> Autoencoder:
        """Fuse all weights that can be fused, before the first use; returns self."""
        fuse_all(self)
        return self

    def pieces(self, signal: Tensor, unit: int = 1) -> Iterator[Tensor]:
        """Cut [batch, channels, latents · unit] so that a piece of all rows stays within ``max_piece``."""
        return cut(signal, self._longest_piece(signal.shape[0]) * unit)

    def _longest_piece(self, rows: int) -> int:
        return min(self.max_piece, max(_MIN_PIECE, self.max_piece // rows))

    def encode(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Audio [batch, 1, samples] -> (z_q [batch, latent_dim, n], indices [batch, levels, n]).

        The audio is zero-padded on the right to whole latents. Raises ValueError beyond ``config.max_encode_latents``.
        """
        z_q, indices = zip(*self.encode_pieces(audio), strict=True)
        return torch.cat(z_q, -1), torch.cat(indices, -1)

    def encode_pieces(self, audio: Tensor, longest: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """As ``encode``, piece after piece: what it returns is their concatenation.

        A piece has at most ``longest`` latents (None = as many as ``max_piece`` allows).
        """
        hop = self.config.samples_per_latent
        audio = F.pad(audio, (0, -audio.shape[-1] % hop))
        _check_length(audio.shape[-1] // hop, self.config.max_encode_latents)
        tails: Tails = ()
        for piece in self.pieces(audio, hop) if longest is None else cut(audio, longest * hop):
            history = History(tails)
            yield self.quantizer.encode(self.encoder(piece, history), history)
            tails = history.next_tails()

    def encode_zq(self, audio: Tensor) -> Tensor:
        """Audio [batch, 1, samples] -> z_q [batch, latent_dim, ceil(samples / 2048)]; see ``encode``."""
        return self.encode(audio)[0]

    def decode_piece(self, z_q: Tensor, tails: Tails = ()) -> tuple[Tensor, Tails]:
        """Decode ``z_q`` [batch, latent_dim, n] as the continuation of what left ``tails`` behind.

        Returns audio [batch, 1, n · 2048] and the tails to continue with. The positions are not checked here.
        """
        history = History(tails)
        frames = z_q if self.config.spectral else self.quantizer.decode(z_q, history)
        audio = self.decoder(frames, history)
        return audio, history.next_tails()

    def decode_padded(self, z_q: Tensor, tails: Tails, ends: Tensor) -> tuple[Tensor, Tails]:
        """As ``decode_piece`` of streams that end at ``ends`` [batch], int64; what lies behind is padding.

        ``tails`` are not empty: a stream's beginning is zeros. Not for a spectral decoder.
        """
        history = PaddedHistory(tails, ends, z_q.shape[-1])
        audio = self.decoder(self.quantizer.decode(z_q, history), history)
        return audio, history.next_tails()

    def decode_zq(self, z_q: Tensor) -> Tensor:
        """z_q [batch, latent_dim, n] -> audio [batch, 1, n · 2048]; ValueError beyond ``config.max_decode_latents``."""
        _check_length(z_q.shape[-1], self.config.max_decode_latents)
        tails: Tails = ()
        pieces: list[Tensor] = []
        for piece in self.pieces(z_q):
            audio, tails = self.decode_piece(piece, tails)
            pieces.append(audio)
        return torch.cat(pieces, -1)

    def decode(self, codes: Tensor) -> Tensor:
        """Indices [batch, levels, n], the semantic level first -> audio [batch, 1, n · 2048]."""
        return self.decode_zq(self.quantizer.lookup(codes))


def cut(signal: Tensor, length: int) -> Iterator[Tensor]:
    """Cut [..., frames] into pieces of at most ``length`` frames."""
    return (signal[..., i : i + length] for i in range(0, signal.shape[-1], length))


def _check_length(latents: int, limit: int) -> None:
    if not 0 < latents <= limit:
        raise ValueError(f"the autoencoder takes 1 to {limit} latents at a time, got {latents}")
