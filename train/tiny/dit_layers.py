"""The server's layers over padded batches: what the trainable DiT and its encoders share."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echo.model.network.attention import GatedAttention, Projected
from echo.model.network.layers import MLP, RMSNorm


class EncoderBlock(nn.Module):
    """Pre-norm transformer block of an encoder."""

    def __init__(self, size: int, heads: int, intermediate: int, eps: float) -> None:
        super().__init__()
        self.attention = GatedAttention(size, heads, eps, rotated=heads)
        self.mlp = MLP(size, intermediate)
        self.attention_norm = RMSNorm(size, eps)
        self.mlp_norm = RMSNorm(size, eps)

    def forward(self, x: Tensor, rotary: Tensor, mask: Tensor) -> Tensor:
        """``x [rows, n, size]``; rotary as ``project``, mask as ``attend``."""
        q, k, v, gate = project(self.attention, self.attention_norm(x), rotary)
        x = x + self.attention.finish(attend(q, k, v, mask).transpose(1, 2), gate)
        return cast("Tensor", x + self.mlp(self.mlp_norm(x)))


def project(attention: GatedAttention, x: Tensor, rotary: Tensor) -> Projected:
    """Project ``x [rows, n, size]`` at the positions of ``rotary [rows * n, ...]``.

    q, k and v are ``[rows, heads, n, d]``, the gate ``[rows, n, size]``.
    """
    projected = attention.project(x.flatten(0, 1), rotary)
    q, k, v, gate = (part.reshape(*x.shape[:2], *part.shape[1:]) for part in projected)
    return Projected(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), gate)


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
