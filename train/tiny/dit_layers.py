"""The parts that the trainable DiT and its encoders share, with the checkpoint's parameter names."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Norm(nn.Module):
    """Root-mean-square norm; a ``(heads, d)`` weight gives every head its own."""

    def __init__(self, shape: int | tuple[int, int], eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension of ``x``; same shape and dtype."""
        return (F.rms_norm(x.float(), x.shape[-1:], eps=self.eps) * self.weight).type_as(x)


class FeedForward(nn.Module):
    """Gated feed-forward."""

    def __init__(self, size: int, intermediate: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(size, intermediate, bias=False)
        self.w3 = nn.Linear(size, intermediate, bias=False)
        self.w2 = nn.Linear(intermediate, size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., size]`` -> the same."""
        return cast("Tensor", self.w2(F.silu(self.w1(x)) * self.w3(x)))


class GatedAttention(nn.Module):
    """The projections that all attentions share, and the gate at their end."""

    def __init__(self, size: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        for name in ("wq", "wk", "wv", "wo", "gate"):
            self.add_module(name, nn.Linear(size, size, bias=False))
        self.q_norm = Norm((heads, size // heads), eps)
        self.k_norm = Norm((heads, size // heads), eps)

    def project(self, name: str, x: Tensor) -> Tensor:
        """``[rows, n, m]`` -> ``[rows, n, heads, d]``."""
        projected: Tensor = self.get_submodule(name)(x)
        return projected.reshape(*projected.shape[:-1], self.heads, -1)

    def finish(self, attended: Tensor, x: Tensor) -> Tensor:
        """Gate ``attended [rows, heads, n, d]`` by the attention's input and project it."""
        merged = attended.transpose(1, 2).flatten(2)
        return cast("Tensor", self.get_submodule("wo")(merged * torch.sigmoid(self.get_submodule("gate")(x))))


class EncoderBlock(nn.Module):
    """Pre-norm transformer block of an encoder."""

    def __init__(self, size: int, heads: int, intermediate: int, eps: float) -> None:
        super().__init__()
        self.attention = GatedAttention(size, heads, eps)
        self.mlp = FeedForward(size, intermediate)
        self.attention_norm = Norm(size, eps)
        self.mlp_norm = Norm(size, eps)

    def forward(self, x: Tensor, angles: Tensor, mask: Tensor) -> Tensor:
        """``x [rows, n, size]``; mask as ``attend``."""
        attention, y = self.attention, self.attention_norm(x)
        q = rotated(attention.q_norm(attention.project("wq", y)), angles).transpose(1, 2)
        k = rotated(attention.k_norm(attention.project("wk", y)), angles).transpose(1, 2)
        v = attention.project("wv", y).transpose(1, 2)
        x = x + attention.finish(attend(q, k, v, mask), y)
        return cast("Tensor", x + self.mlp(self.mlp_norm(x)))


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attention of ``q [rows, heads, n, d]`` to ``k, v [rows, heads, keys, d]``.

    mask  [rows or 1, n or 1, keys], true where a key is seen
    """
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None])
    # Measured on a CPU, forward and backward, at training's lengths: less than half the time of the fused kernel.
    rows, heads, _, d = q.shape
    bias = torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill(~mask, -1e4)
    bias = bias[:, None].expand(rows, heads, *bias.shape[1:]).flatten(0, 1)
    scores = torch.baddbmm(bias, q.flatten(0, 1) * d**-0.5, k.flatten(0, 1).mT)
    return (scores.softmax(-1) @ v.flatten(0, 1)).reshape(q.shape)


def half(heads: int) -> int:
    """How many heads of the joint attention know positions."""
    return (heads + 1) // 2


def rotary(positions: Tensor, head_dim: int) -> Tensor:
    """Cosines and sines of the rotary angles ``p * 10000^(-2k/d)``: ``[..., 2, d/2]`` f32 of positions ``[...]``."""
    falling = 10_000.0 ** (-torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device) / head_dim)
    angles = positions[..., None].float() * falling
    return torch.stack((angles.cos(), angles.sin()), dim=-2)


def rotated(x: Tensor, angles: Tensor, heads: int | None = None) -> Tensor:
    """Rotate the pairs of the first ``heads`` (None = all) heads.

    x [rows, n, heads, d]; angles ``[n, 2, d/2]`` or ``[rows, n, 2, d/2]``; f32 inside, x's dtype.
    """
    cos, sin = (part.repeat_interleave(2, dim=-1).unsqueeze(-2) for part in angles.unbind(-2))
    turned, still = (x, None) if heads is None else (x[..., :heads, :], x[..., heads:, :])
    wide = turned.float()
    swapped = torch.stack((-wide[..., 1::2], wide[..., ::2]), dim=-1).flatten(-2)
    result = (wide * cos + swapped * sin).type_as(x)
    return result if still is None else torch.cat((result, still), dim=-2)
