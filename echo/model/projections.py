"""What every attention of the model starts and ends with: queries, keys, values and a gate of one input."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echo.model.layers import Fused, RMSNorm, rms_norm, rotate, split_heads


class Projected(NamedTuple):
    """Queries, keys and values ``[..., n, heads, d]`` and the gate ``[..., n, heads * d]`` of an input."""

    q: Tensor
    k: Tensor
    v: Tensor
    gate: Tensor


class GatedAttention(Fused):
    """Base of the attentions: one product gives q, k, v and the gate; q and k are normed and rotated as one.

    ``rotated`` is how many heads, from the first, carry the position; the others are free of it.
    """

    fused_names = ("wq", "wk", "wv", "gate")

    def __init__(self, size: int, heads: int, eps: float, *, rotated: int) -> None:
        super().__init__()
        self.heads = heads
        self.rotated = rotated
        self.wq = nn.Linear(size, size, bias=False)
        self.wk = nn.Linear(size, size, bias=False)
        self.wv = nn.Linear(size, size, bias=False)
        self.wo = nn.Linear(size, size, bias=False)
        self.gate = nn.Linear(size, size, bias=False)
        self.q_norm = RMSNorm((heads, size // heads), eps)
        self.k_norm = RMSNorm((heads, size // heads), eps)

    def project(self, x: Tensor, turns: Tensor) -> Projected:
        """Project ``x [n, size]`` at the positions of ``turns [n, ...]``."""
        size = x.shape[-1]
        qk, v, gate = torch.split(F.linear(x, self.fuse()), [2 * size, size, size], dim=-1)
        heads = split_heads(qk, 2 * self.heads)
        normed = rms_norm(heads, torch.cat((self.q_norm.weight, self.k_norm.weight)), self.q_norm.eps)
        both = normed.reshape(-1, 2, self.heads, normed.shape[-1])
        q, k = rotate_first(both, turns[:, None], self.rotated).unbind(1)
        return Projected(q, k, split_heads(v, self.heads), gate)

    def finish(self, attended: Tensor, gate: Tensor) -> Tensor:
        """Gate what the heads gathered, ``[n, heads, d]``, and project it: ``[n, size]``."""
        out: Tensor = self.wo(attended.flatten(-2) * torch.sigmoid(gate))
        return out


def rotate_first(x: Tensor, turns: Tensor, count: int) -> Tensor:
    """Rotate the first ``count`` heads of ``[..., heads, d]`` to the positions of ``turns``."""
    turned = rotate(x[..., :count, :], turns)
    return turned if count == x.shape[-2] else torch.cat((turned, x[..., count:, :]), dim=-2)
