"""What the flow time does to the DiT: every block's shift, scale and gate.

They depend on t alone, so they are computed once per schedule and looked up at every step.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: The six parts of a block's modulation, in the order of a table's third dimension:
#: shift, 1 + scale, gate of the attention; shift, 1 + scale, gate of the feed-forward.
PARTS = 6


def timestep_embedding(t: Tensor, size: int) -> Tensor:
    """Cosines then sines of 1000 t at geometrically falling frequencies.

    t [n] in the model's dtype: the model has seen t rounded to it (0.999 is 1.0 in bfloat16), and an
    exact t gives other outputs. Returns ``[n, size]`` in t's dtype; f32 inside.
    """
    half = size // 2
    falling = torch.exp(-math.log(10_000.0) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t.float()[:, None] * (1000.0 * falling)
    return torch.cat((angles.cos(), angles.sin()), dim=-1).to(t.dtype)


class LowRankAdaLN(nn.Module):
    """Adaptive norm: maps the shared condition to one sub-layer's shift, scale and gate through low-rank residuals."""

    def __init__(self, size: int, rank: int) -> None:
        super().__init__()
        self.shift_down = nn.Linear(size, rank, bias=False)
        self.scale_down = nn.Linear(size, rank, bias=False)
        self.gate_down = nn.Linear(size, rank, bias=False)
        self.shift_up = nn.Linear(rank, size)
        self.scale_up = nn.Linear(rank, size)
        self.gate_up = nn.Linear(rank, size)

    def forward(self, condition: Tensor) -> Tensor:
        """Condition ``[n, 3M]`` -> ``[n, 3, M]``: shift, 1 + scale, tanh(gate)."""
        shift, scale, gate = condition.chunk(3, dim=-1)
        shift = self.shift_up(self.shift_down(F.silu(shift))) + shift
        scale = self.scale_up(self.scale_down(F.silu(scale))) + scale
        gate = self.gate_up(self.gate_down(F.silu(gate))) + gate
        return torch.stack((shift, 1 + scale, torch.tanh(gate)), dim=1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """RMS-normalise ``[..., M]``, times ``scale`` (already 1 + scale), plus ``shift``; f32 inside."""
    return (F.rms_norm(x.float(), x.shape[-1:], eps=eps) * scale + shift).type_as(x)


class ModulationCache:
    """The modulation tables of the schedules in use, the least recently used dropped first.

    One per model; used by one thread. ``compute`` is ``EchoDiT.modulation``.
    """

    def __init__(self, compute: Callable[[Sequence[float]], Tensor], capacity: int = 32) -> None:
        self._compute = compute
        self._capacity = capacity
        self._tables: OrderedDict[tuple[float, ...], Tensor] = OrderedDict()

    def table(self, times: Sequence[float]) -> Tensor:
        """``[len(times), layers, 6, M]`` of these flow times."""
        key = tuple(times)
        if key in self._tables:
            self._tables.move_to_end(key)
        else:
            self._tables[key] = self._compute(key)
            if len(self._tables) > self._capacity:
                self._tables.popitem(last=False)
        return self._tables[key]
