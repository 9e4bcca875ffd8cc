"""Keys and values of the joint attention: how they are laid out, scaled and packed for a row.

The K/V of one condition source (text, speaker, latent prefix) for one row is ONE tensor
``[layers, 2, heads, n, d]``: no batch dimension, and only keys that are seen; a masked key is a key left out.
It is never written to after it was made, so rows, blocks and requests share it freely.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

#: ``[layers, 2, heads, n, d]``, K at index 0 and V at index 1 of the second dimension.
KV = Tensor


def key_count(kv: KV) -> int:
    """Number of keys n."""
    return kv.shape[3]


def scaled(kv: KV, scale: float, max_layers: int | None = None) -> KV:
    """A copy whose K and V are multiplied by ``scale`` in the first ``max_layers`` layers (None = all).

    On the speaker's K/V this pulls the voice harder towards the reference ("force speaker").
    """
    copy = kv.clone()
    copy[:max_layers] *= scale
    return copy


@dataclass(frozen=True, slots=True, eq=False)
class RowContext:
    """All keys that one row of a step attends to.

    keys  [layers, 2, heads, size + n, d]  the row's own keys and its n context keys, side by side
    own   [layers, 2, heads, size, d]      the part of ``keys`` that each step fills with the row's own keys
    """

    keys: Tensor
    own: Tensor


def pack_context(rows: Sequence[Sequence[KV]], size: int, like: KV) -> list[RowContext]:
    """Lay out the context keys of the rows of one block, once, so that its steps copy none of them.

    rows  for each row its sources, in order; keys have no position of their own, so the order is free
    size  latents of the block = own keys of a row
    like  a K/V (of any length) that gives layers, heads, d, dtype and device

    A row whose sources begin or end those of an earlier row (the same tensors) reads that row's memory: with
    the sources ordered [text, latent, speaker], the rows without text and without speaker cost nothing. Such
    rows share the room for own keys, so they must be attended one after another (as ``velocity`` does).
    """
    buffers: list[tuple[Sequence[KV], Tensor]] = []
    packed: list[RowContext] = []
    for sources in rows:
        context = sum(key_count(kv) for kv in sources)
        for others, buffer in buffers:
            if _same(sources, others[: len(sources)]):
                packed.append(_front(buffer, size, context))
                break
            if _same(sources, others[len(others) - len(sources) :]):
                packed.append(_back(buffer, size, context))
                break
        else:
            buffer = _lay_out(sources, size, like)
            buffers.append((sources, buffer))
            packed.append(_front(buffer, size, context))
    return packed


def _same(a: Sequence[KV], b: Sequence[KV]) -> bool:
    return len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))


def _lay_out(sources: Sequence[KV], size: int, like: KV) -> Tensor:
    """[room for own keys | sources | room for own keys]."""
    layers, two, heads, _, d = like.shape
    room = like.new_empty(layers, two, heads, size, d)
    return torch.cat((room, *sources, room), dim=3)


def _front(buffer: Tensor, size: int, context: int) -> RowContext:
    return RowContext(keys=buffer[:, :, :, : size + context], own=buffer[:, :, :, :size])


def _back(buffer: Tensor, size: int, context: int) -> RowContext:
    end = buffer.shape[3]
    return RowContext(keys=buffer[:, :, :, end - size - context :], own=buffer[:, :, :, end - size :])
