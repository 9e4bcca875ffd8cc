"""The parts that the DiT and its encoders share: norm, feed-forward, rotary position encoding."""

from __future__ import annotations

from typing import Any, Self

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
        return rms_norm(x, self.weight, self.eps)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm of ``[..., n]``, times ``weight``; f32 inside, x's shape and dtype."""
    return (F.rms_norm(x.float(), x.shape[-1:], eps=eps) * weight.float()).type_as(x)


def embedding(count: int, size: int) -> nn.Embedding:
    """A table of ``count`` vectors; not filled on the meta device, where drawing numbers imports a compiler first."""
    table = torch.empty(count, size)
    if not table.is_meta:
        nn.init.normal_(table)
    found: nn.Embedding = nn.Embedding.from_pretrained(table, freeze=False)  # type: ignore[no-untyped-call]  # torch's own
    return found


class Fused(nn.Module):
    """Base of modules whose projections of one input run as one matrix product.

    Each projection keeps its name in the state dict; its weight is a slice of the common one, so nothing is held
    twice. New weights (loaded, moved, converted) are fused again at the next use.
    """

    #: Names of the bias-free ``nn.Linear`` that share their input, in the order of the product's columns.
    fused_names: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self._fused: Tensor | None = None
        self.register_load_state_dict_post_hook(_forget)  # type: ignore[no-untyped-call]  # torch's own

    def fuse(self) -> Tensor:
        """The common weight ``[sum of the outputs, size]``."""
        linears = [getattr(self, name) for name in self.fused_names]
        if any(linear.weight.requires_grad for linear in linears):
            return torch.cat([linear.weight for linear in linears])  # in training each is one of its own
        if self._fused is None:
            sizes = [linear.out_features for linear in linears]
            # Ordinary tensors even where inference mode is on: weights may be loaded into them later.
            with torch.inference_mode(False), torch.no_grad():
                weight = torch.cat([linear.weight for linear in linears])
                for linear, rows in zip(linears, torch.split_with_sizes(weight, sizes), strict=True):
                    linear.weight = nn.Parameter(rows, requires_grad=False)
            self._fused = weight
        return self._fused

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch's own
        self._fused = None
        return self


def fuse_all(model: nn.Module) -> None:
    """Fuse all weights of a model that can be fused: before the first use, because a compiled one cannot."""
    for module in model.modules():
        if isinstance(module, Fused):
            module.fuse()


def _forget(module: nn.Module, _: object) -> None:
    assert isinstance(module, Fused)
    module._fused = None


class MLP(Fused):
    """Gated feed-forward, ``w2(silu(w1 x) * w3 x)``."""

    fused_names = ("w1", "w3")

    def __init__(self, size: int, intermediate: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(size, intermediate, bias=False)
        self.w3 = nn.Linear(size, intermediate, bias=False)
        self.w2 = nn.Linear(intermediate, size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., size]`` -> the same."""
        gate, value = F.linear(x, self.fuse()).chunk(2, dim=-1)
        out: Tensor = self.w2(F.silu(gate) * value)
        return out


class Rotary:
    """Cosines and sines of the rotary angles ``p * 10000^(-2k/d)``, computed once per device.

    A position has cosines and sines, or on a CPU complex numbers, with which rotating takes a tenth of the time there.

    Deliberately no module and no buffer: the tables are in no checkpoint and must survive a model that was
    built on the meta device.
    """

    def __init__(self, head_dim: int) -> None:
        self._frequencies = 1.0 / 10_000.0 ** (
            torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim
        )
        self._tables: dict[torch.device, Tensor] = {}

    def __call__(self, start: int, count: int, device: torch.device, stride: int = 1) -> Tensor:
        """Table rows of positions start, start + stride, ...: ``[count, 2, d/2]`` f32, or ``[count, d/2]`` complex."""
        return self.table(start + count * stride, device)[start : start + count * stride : stride]

    def table(self, end: int, device: torch.device) -> Tensor:
        """Table of all positions from 0 on, at least to ``end``."""
        table = self._tables.get(device)
        if table is None or table.shape[0] < end:
            # The released model uses 640 positions; power-of-two growth covers whatever else is asked.
            positions = torch.arange(max(1024, 1 << end.bit_length()), dtype=torch.float32, device="cpu")
            angles = torch.outer(positions, self._frequencies)
            cos, sin = angles.cos(), angles.sin()
            rotary = torch.complex(cos, sin) if device.type == "cpu" else torch.stack((cos, sin), dim=1)
            table = self._tables[device] = rotary.to(device)
        return table


def split_heads(x: Tensor, heads: int) -> Tensor:
    """``[..., heads * d]`` -> ``[..., heads, d]``."""
    return x.reshape(*x.shape[:-1], heads, -1)


def rotate(x: Tensor, rotary: Tensor) -> Tensor:
    """Rotate interleaved pairs; f32 inside.

    x [..., n, heads, d]; rotary [..., n, 2, d/2] or complex [..., n, d/2], as Rotary gives them; returns x's shape
    and dtype.
    """
    pairs = x.float().reshape(*x.shape[:-1], -1, 2)
    if rotary.is_complex():
        return torch.view_as_real(torch.view_as_complex(pairs) * rotary.unsqueeze(-2)).flatten(-2).type_as(x)
    cos, sin = rotary.unsqueeze(-3).unbind(-2)
    even, odd = pairs.unbind(-1)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).type_as(x)
