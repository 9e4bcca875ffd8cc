"""Who attends to what in a step: every row of a batch to its own keys, to its context, and to a voice that it shares.

The shared keys are attended on their own and the two results blended by how much weight each would have had in one
softmax, which is exact; so a voice's K/V lie in memory once, however many rows and requests use it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from echo.model.kv import RowContext


class Attention(Protocol):
    """The attention of one step's rows, whose latents follow one another in one dimension."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Queries, own keys and own values of all rows -> what they gathered; each ``[latents, heads, d]``."""
        ...


class RowByRow:
    """One call per row and one per voice: no mask, no padding, and no row's result depends on who shares the step.

    contexts, sizes   per row, in the order of their latents; the own keys in ``contexts`` are written to
    """

    def __init__(self, contexts: Sequence[RowContext], sizes: Sequence[int]) -> None:
        self._rows = [
            (
                slice(end - size, end),
                context.keys.unbind(0),
                context.own.unbind(0),
                context.voice.unbind(0) if context.voice is not None else None,
            )
            for context, size, end in zip(contexts, sizes, itertools.accumulate(sizes), strict=True)
        ]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See ``Attention``."""
        out = torch.empty_like(q)
        for span, keys, own, voice in self._rows:
            own[layer][0].copy_(k[span].transpose(0, 1))
            own[layer][1].copy_(v[span].transpose(0, 1))
            mine, weight = attend(q[span], keys[layer])
            if voice is not None:
                shared, its_weight = attend(q[span], voice[layer])
                mine = blend(mine, weight, shared, its_weight)
            out[span] = mine
        return out


def blend(a: Tensor, a_weight: Tensor, b: Tensor, b_weight: Tensor) -> Tensor:
    """What two results of ``attend`` would have been as one: ``[n, heads, d]`` of both, ``[n, heads]`` logarithms."""
    return torch.lerp(a, b, torch.sigmoid(b_weight - a_weight)[..., None].type_as(a))


def attend(q: Tensor, keys: Tensor, *, fast: bool = True) -> tuple[Tensor, Tensor]:
    """Attention of ``q [n, heads, d]`` to ``keys [2, heads, m, d]``, m >= 1, without a mask; ``fast`` where it can be.

    Returns what was gathered, ``[n, heads, d]``, and the logarithm of the summed weights, ``[n, heads]`` f32.
    """
    queries = q.transpose(0, 1)[None]
    if fast and q.device.type == "cpu":
        # What scaled_dot_product_attention runs on a CPU; called by its name for the second result.
        out, weight = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(queries, keys[None, 0], keys[None, 1])
    else:
        scores = (queries @ keys[None, 0].transpose(-1, -2)).float() * q.shape[-1] ** -0.5
        weight = scores.logsumexp(-1)
        out = (scores - weight[..., None]).exp().type_as(q) @ keys[None, 1]
    return out[0].transpose(0, 1), weight[0].transpose(0, 1)
