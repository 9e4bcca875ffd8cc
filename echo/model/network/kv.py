"""Keys and values of the joint attention: how they are laid out, scaled and packed for a row.

The K/V of one condition source (text, speaker, latent prefix) for one row is ONE tensor
``[layers, 2, heads, n, d]``: no batch dimension, and only keys that are seen; a masked key is a key left out.
It is never written to after it was made, so rows, blocks and requests share it freely.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

#: ``[layers, 2, heads, n, d]``, K at index 0 and V at index 1 of the second dimension.
KV = Tensor

#: Makes room for the K/V of so many keys. The room is taken for as long as the returned object lives.
Allocate = Callable[[int], KV]


def key_count(kv: KV) -> int:
    """Number of keys n."""
    return kv.shape[3]


def scaled(kv: KV, scale: float, max_layers: int | None, allocate: Allocate) -> KV:
    """A copy whose K and V are multiplied by ``scale`` in the first ``max_layers`` layers (None = all).

    On the speaker's K/V this pulls the voice harder towards the reference ("force speaker").
    """
    copy = placed(kv, allocate)
    copy[:max_layers] *= scale
    return copy


def placed(kv: KV, allocate: Allocate) -> KV:
    """A copy in another room (and on its device)."""
    return allocate(key_count(kv)).copy_(kv, non_blocking=True)


@dataclass(frozen=True, slots=True, eq=False)
class RowContext:
    """All keys that one row of a step attends to.

    keys   [layers, 2, heads, size + n, d]  the row's own keys and its n context keys, side by side
    own    [layers, 2, heads, size, d]      the part of ``keys`` that each step fills with the row's own keys
    voice  further keys, which other rows and requests attend to as well and nobody writes to; None = none
    room   what ``keys`` lies in
    """

    keys: Tensor
    own: Tensor
    voice: KV | None
    room: KV

    @property
    def seen(self) -> int:
        """Keys that the row attends to, its own included."""
        return key_count(self.keys) + (key_count(self.voice) if self.voice is not None else 0)


def pack_context(
    rows: Sequence[Sequence[KV]], size: int, allocate: Allocate, voices: Sequence[KV | None] | None = None
) -> list[RowContext]:
    """Lay out the context keys of the rows of one block, once, so that its steps copy none of them.

    rows    for each row its sources, in order; keys have no position of their own, so the order is free
    size    latents of the block = own keys of a row
    voices  for each row the keys that are not copied but shared as they are

    A row whose sources begin or end those of an earlier row (the same tensors) reads that row's memory: with
    the sources ordered [text, latent], the row without text costs only room for its own keys. There is room for own
    keys at both ends, and every row has its own, so rows may be attended in any order or all at once.
    """
    buffers: list[_Buffer] = []
    packed: list[RowContext] = []
    for sources, voice in zip(rows, voices or [None] * len(rows), strict=True):
        context = None
        for buffer in buffers:
            context = context or buffer.take(sources, voice)
        if context is None:
            buffers.append(_Buffer(sources, size, allocate))
            context = buffers[-1].take(sources, voice)
        assert context is not None
        packed.append(context)
    return packed


class _Buffer:
    """``[room for own keys | sources | room for own keys]``."""

    def __init__(self, sources: Sequence[KV], size: int, allocate: Allocate) -> None:
        self._sources = sources
        self._size = size
        self._front_free = self._back_free = True
        self._room = allocate(size + sum(map(key_count, sources)) + size)
        start = size
        for kv in sources:
            self._room[:, :, :, start : start + key_count(kv)].copy_(kv)
            start += key_count(kv)

    def take(self, sources: Sequence[KV], voice: KV | None) -> RowContext | None:
        """The context of a row with these sources; None when this is not the place for it."""
        size, context, end = self._size, sum(map(key_count, sources)), key_count(self._room)
        if self._front_free and _same(sources, self._sources[: len(sources)]):
            self._front_free = False
            return self._context(slice(size + context), slice(size), voice)
        if self._back_free and _same(sources, self._sources[len(self._sources) - len(sources) :]):
            self._back_free = False
            return self._context(slice(end - size - context, end), slice(end - size, end), voice)
        return None

    def _context(self, keys: slice, own: slice, voice: KV | None) -> RowContext:
        return RowContext(self._room[:, :, :, keys], self._room[:, :, :, own], voice, self._room)


def _same(a: Sequence[KV], b: Sequence[KV]) -> bool:
    return len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))
