"""The parts that the DiT and its encoders share: norm, feed-forward, rotary position encoding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last dimension, weighted; f32 inside.

    ``shape`` may be (heads, d): every head of q or k then has its own weights, input ``[..., heads, d]``.
    """

    def __init__(self, shape: int | tuple[int, int], eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``[..., n]``; same shape and dtype."""
        return (F.rms_norm(x.float(), x.shape[-1:], eps=self.eps) * self.weight.float()).type_as(x)


class MLP(nn.Module):
    """Gated feed-forward, ``w2(silu(w1 x) * w3 x)``."""

    def __init__(self, size: int, intermediate: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(size, intermediate, bias=False)
        self.w3 = nn.Linear(size, intermediate, bias=False)
        self.w2 = nn.Linear(intermediate, size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., size]`` -> the same."""
        out: Tensor = self.w2(F.silu(self.w1(x)) * self.w3(x))
        return out


class Rotary:
    """Cosines and sines of the rotary angles ``p * 10000^(-2k/d)``, computed once per device.

    Deliberately no module and no buffer: the tables are in no checkpoint and must survive a model that was
    built on the meta device.
    """

    def __init__(self, head_dim: int) -> None:
        self._frequencies = 1.0 / 10_000.0 ** (
            torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim
        )
        self._tables: dict[torch.device, Tensor] = {}

    def __call__(self, start: int, count: int, device: torch.device, stride: int = 1) -> Tensor:
        """Angles of positions start, start + stride, ...: ``[count, 2, d/2]`` f32, cosines then sines."""
        end = start + count * stride
        table = self._tables.get(device)
        if table is None or table.shape[0] < end:
            # The released model uses 640 positions; power-of-two growth covers whatever else is asked.
            positions = torch.arange(max(1024, 1 << end.bit_length()), dtype=torch.float32, device="cpu")
            angles = torch.outer(positions, self._frequencies)
            table = torch.stack((angles.cos(), angles.sin()), dim=1).to(device)
            self._tables[device] = table
        return table[start:end:stride]


def split_heads(x: Tensor, heads: int) -> Tensor:
    """``[..., heads * d]`` -> ``[..., heads, d]``."""
    return x.reshape(*x.shape[:-1], heads, -1)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate interleaved pairs; f32 inside.

    x [..., n, heads, d]; angles [..., n, 2, d/2] as Rotary gives them; returns x's shape and dtype.
    """
    cos, sin = angles.unsqueeze(-3).unbind(-2)
    even, odd = x.float().reshape(*x.shape[:-1], -1, 2).unbind(-1)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).type_as(x)
