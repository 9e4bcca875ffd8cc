"""The residual vector quantiser and the transformers and resamplers around it."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echo.model.autoencoder.config import AutoencoderConfig
from echo.model.autoencoder.conv import (
    CausalConv1d,
    CausalConvTranspose1d,
    CausalSequential,
    ConvNeXtBlock,
    add_weight_norm,
)
from echo.model.autoencoder.history import History
from echo.model.autoencoder.transformer import WindowTransformer
from echo.model.network.layers import embedding


class VectorQuantizer(nn.Module):
    """One codebook, searched by cosine similarity in a small projected space."""

    def __init__(self, dim: int, codebook_size: int, codebook_dim: int) -> None:
        super().__init__()
        self.in_proj = nn.Conv1d(dim, codebook_dim, 1)
        self.out_proj = nn.Conv1d(codebook_dim, dim, 1)
        add_weight_norm(self.in_proj)
        add_weight_norm(self.out_proj)
        self.codebook = embedding(codebook_size, codebook_dim)

    def nearest(self, residual: Tensor) -> Tensor:
        """[batch, dim, n] -> indices [batch, n] of the closest entries (the first one on ties)."""
        projected = F.normalize(self.in_proj(residual).float(), dim=1)
        entries = F.normalize(self.codebook.weight.float(), dim=1)
        return torch.einsum("bdn,kd->bnk", projected, entries).argmax(-1)

    def lookup(self, indices: Tensor) -> Tensor:
        """Indices [batch, n] -> [batch, dim, n]."""
        indices = indices.clamp(0, self.codebook.num_embeddings - 1)
        return cast(Tensor, self.out_proj(self.codebook(indices).transpose(1, 2)))


class ResidualQuantizer(nn.Module):
    """Codebooks in sequence, each coding what the ones before it left over."""

    def __init__(self, dim: int, levels: int, codebook_size: int, codebook_dim: int) -> None:
        super().__init__()
        self.quantizers = nn.ModuleList(VectorQuantizer(dim, codebook_size, codebook_dim) for _ in range(levels))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """[batch, dim, n] -> (quantised [batch, dim, n], indices [batch, levels, n])."""
        total = torch.zeros_like(z)
        indices: list[Tensor] = []
        for level in self.quantizers:
            level = cast(VectorQuantizer, level)
            indices.append(level.nearest(z - total))
            total = total + level.lookup(indices[-1])
        return total, torch.stack(indices, 1)

    def lookup(self, indices: Tensor) -> Tensor:
        """Indices [batch, levels, n] -> the sum of the entries [batch, dim, n]."""
        rows = zip(self.quantizers, indices.unbind(1), strict=True)
        return torch.stack([cast(VectorQuantizer, level).lookup(row) for level, row in rows]).sum(0)


class DownsampleQuantizer(nn.Module):
    """Encoder frames -> latents (downsample, pre-module, codebooks) and back (post-module, upsample).

    Where the configuration has no pre-module, the frames are latents already; where it has no post-module, there is no
    way back.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        dim, q = config.latent_dim, config.quantizer
        self._made = q.pre_module is None
        if q.pre_module is not None:
            self.downsample = CausalSequential(
                *(
                    CausalSequential(
                        CausalConv1d(dim, dim, factor, stride=factor, weight_norm=False), ConvNeXtBlock(dim)
                    )
                    for factor in q.downsample_factor
                )
            )
            self.pre_module = WindowTransformer(q.pre_module)
        self.semantic_quantizer = ResidualQuantizer(dim, 1, q.semantic_codebook_size, q.codebook_dim)
        self.quantizer = ResidualQuantizer(dim, q.n_codebooks, q.codebook_size, q.codebook_dim)
        if q.post_module is None:
            return
        self.post_module = WindowTransformer(q.post_module)
        self.upsample = CausalSequential(
            *(
                CausalSequential(
                    CausalConvTranspose1d(dim, dim, factor, stride=factor, weight_norm=False),
                    ConvNeXtBlock(dim),
                )
                for factor in reversed(q.downsample_factor)
            )
        )

    @property
    def first_codebook(self) -> Tensor:
        """Entries of the first level, [codebook_size, codebook_dim]."""
        return cast(VectorQuantizer, self.semantic_quantizer.quantizers[0]).codebook.weight

    def encode(self, frames: Tensor, history: History) -> tuple[Tensor, Tensor]:
        """Encoder frames [batch, dim, frames] -> (quantised [batch, dim, n], indices [batch, levels, n])."""
        z = frames if self._made else self.pre_module(self.downsample(frames, history), history)
        semantic, semantic_indices = self.semantic_quantizer(z)
        residual, residual_indices = self.quantizer(z - semantic)
        return semantic + residual, torch.cat((semantic_indices, residual_indices), 1)

    def lookup(self, indices: Tensor) -> Tensor:
        """Indices [batch, levels, n], the semantic level first -> quantised [batch, dim, n]."""
        return self.semantic_quantizer.lookup(indices[:, :1]) + self.quantizer.lookup(indices[:, 1:])

    def decode(self, quantized: Tensor, history: History) -> Tensor:
        """Quantised [batch, dim, n] -> decoder frames [batch, dim, n · downsampling]."""
        return cast(Tensor, self.upsample(self.post_module(quantized, history), history))
