"""The window-limited transformer around the quantiser and at the end of the encoder."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echo.model.autoencoder.config import TransformerConfig
from echo.model.autoencoder.history import History
from echo.model.network.layers import MLP, rotate


def rotary_table(positions: Tensor, head_dim: int, base: float) -> Tensor:
    """(cos, sin) pairs [n, head_dim / 2, 2], computed in float32 and rounded to bfloat16 as the model was trained.

    Always computed on the CPU and in the reference's order: other roundings flip single entries of the table.
    """
    frequencies = 1.0 / base ** (torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim)
    angles = positions.cpu().float()[:, None] * frequencies
    return torch.stack((angles.cos(), angles.sin()), -1).to(torch.bfloat16)


def window_mask(start: Tensor, queries: int, window: int) -> Tensor:
    """Which keys each query sees, as booleans [batch, 1, queries, window - 1 + queries].

    Query i stands at position ``start + i`` and sees ``window`` keys up to and including its own; key j stands at
    ``start + j - (window - 1)``, and positions below zero do not exist.
    """
    query = torch.arange(queries, device=start.device)[:, None]
    key = torch.arange(window - 1 + queries, device=start.device)
    band = (key >= query) & (key < query + window)
    exists = start[:, None] + key >= window - 1
    return (band & exists[:, None, :]).unsqueeze(1)


class RMSNorm(nn.Module):
    """Root-mean-square norm: normalised in float32, cast back, *then* weighted."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self._eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Same shape and dtype out."""
        return F.rms_norm(x.float(), x.shape[-1:], eps=self._eps).to(x.dtype) * self.weight


class LayerScale(nn.Module):
    """One learned factor per channel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """[..., dim] -> the same."""
        return x * self.gamma


class WindowAttention(nn.Module):
    """Self-attention over the last ``window_size`` positions; remembers their rotated keys and their values."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width = config.n_head * config.head_dim
        self.wqkv = nn.Linear(config.dim, 3 * width, bias=False)
        self.wo = nn.Linear(width, config.dim, bias=False)
        self._n_head = config.n_head
        self._past = config.window_size - 1

    def forward(self, x: Tensor, rotary: Tensor, mask: Tensor, history: History) -> Tensor:
        """[batch, n, dim] -> the same."""
        q, k, v = self.wqkv(x).unflatten(-1, (3, self._n_head, -1)).unbind(2)
        q, k = rotate(q, rotary), rotate(k, rotary)
        k = history.prepend(k.transpose(1, 2), self._past, dim=2)
        v = history.prepend(v.transpose(1, 2), self._past, dim=2)
        out = F.scaled_dot_product_attention(q.transpose(1, 2), k, v, attn_mask=mask)
        return cast(Tensor, self.wo(out.transpose(1, 2).flatten(2)))


class TransformerBlock(nn.Module):
    """Pre-norm block with layer scale on both branches."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention = WindowAttention(config)
        self.feed_forward = MLP(config.dim, config.intermediate_size)
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)
        self.attention_layer_scale = LayerScale(config.dim)
        self.ffn_layer_scale = LayerScale(config.dim)

    def forward(self, x: Tensor, rotary: Tensor, mask: Tensor, history: History) -> Tensor:
        """[batch, n, dim] -> the same."""
        x = x + self.attention_layer_scale(self.attention(self.attention_norm(x), rotary, mask, history))
        return cast(Tensor, x + self.ffn_layer_scale(self.feed_forward(self.ffn_norm(x))))


class WindowTransformer(nn.Module):
    """Causal transformer in which every position sees the last ``window_size`` positions, its own included.

    Channels first in and out. Positions continue from piece to piece, because the rounded rotary table is not
    shift-invariant. ``freqs_cis`` is that table; a checkpoint's own replaces the computed one.
    """

    freqs_cis: Tensor

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        same = config.input_dim == config.dim
        self.input_proj = nn.Identity() if same else nn.Linear(config.input_dim, config.dim)
        self.layers = nn.ModuleList(TransformerBlock(config) for _ in range(config.n_layer))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.output_proj = nn.Identity() if same else nn.Linear(config.dim, config.input_dim)
        self.register_buffer("freqs_cis", self.computed_table())

    def computed_table(self, device: torch.device | str | None = None) -> Tensor:
        """The rotary table [block_size, head_dim / 2, 2] in bfloat16, on ``device``, by default torch's own."""
        positions = torch.arange(self.config.block_size, device="cpu")
        table = rotary_table(positions, self.config.head_dim, self.config.rope_base)
        return table.to(torch.get_default_device() if device is None else device)

    def forward(self, x: Tensor, history: History) -> Tensor:
        """[batch, input_dim, n] -> the same shape."""
        h = self.input_proj(x.transpose(1, 2))
        n = h.shape[1]
        start = history.advance(h, n)
        rotary = self.freqs_cis[start[:, None] + torch.arange(n, device=h.device)].float().transpose(-1, -2)
        mask = window_mask(start, n, self.config.window_size)
        for layer in self.layers:
            h = layer(h, rotary, mask, history)
        return cast(Tensor, self.output_proj(self.norm(h)).transpose(1, 2))
