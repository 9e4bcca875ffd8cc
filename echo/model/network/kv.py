"""Keys and values of the joint attention: their layout, scaling, and packing for a row.

The K/V of one condition (text, speaker, latent prefix) for one row is one tensor ``[layers, 2, heads, n, d]``. It has
no batch dimension and no masked keys: a masked key is a key left out. It is never written to after it was made, so
rows, blocks and requests share it freely.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

#: ``[layers, 2, heads, n, d]``, K at index 0 and V at index 1 of the second dimension.
KV = Tensor

#: Allocates a buffer for the K/V of that many keys. The buffer is in use for as long as the returned object lives.
Allocate = Callable[[int], KV]


def key_count(kv: KV) -> int:
    """Number of keys n."""
    return kv.shape[3]


def scaled(kv: KV, scale: float, max_layers: int | None, allocate: Allocate) -> KV:
    """A copy whose K and V are multiplied by ``scale`` in the first ``max_layers`` layers (None = all).

    On the speaker's K/V this pulls the voice harder towards the reference ("force speaker").
    """
    copy = copy_into(kv, allocate)
    copy[:max_layers] *= scale
    return copy


def copy_into(kv: KV, allocate: Allocate) -> KV:
    """A copy in a buffer of ``allocate`` (and on its device)."""
    return allocate(key_count(kv)).copy_(kv, non_blocking=True)


@dataclass(frozen=True, slots=True, eq=False)
class RowContext:
    """All keys that one row of a step attends to.

    keys    [layers, 2, heads, size + n, d]  the row's own keys and its n context keys, side by side
    own     [layers, 2, heads, size, d]      the part of ``keys`` that each step fills with the row's own keys
    voice   further keys, read-only and shared with other rows and requests; None = none
    buffer  the buffer that ``keys`` is a view of
    """

    keys: Tensor
    own: Tensor
    voice: KV | None
    buffer: KV

    @property
    def seen(self) -> int:
        """Number of keys that the row attends to, its own included."""
        return key_count(self.keys) + (key_count(self.voice) if self.voice is not None else 0)


def pack_context(
    rows: Sequence[Sequence[KV]], size: int, allocate: Allocate, voices: Sequence[KV | None] | None = None
) -> list[RowContext]:
    """Lay out the context keys of a block's rows once, so that its steps copy none of them.

    rows    for each row its sources, in order; keys carry their positions, so the order is free
    size    latents of the block = own keys of a row
    voices  for each row the keys that are shared and not copied

    A row whose sources are a prefix or suffix of an earlier row's (the same tensors) shares that row's buffer: with
    the sources ordered [text, latent], the row without text needs space only for its own keys. A buffer has space for
    own keys at both ends, and every row has its own, so rows may be attended in any order or all at once.
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
    """``[own keys of one row | sources | own keys of another row]``."""

    def __init__(self, sources: Sequence[KV], size: int, allocate: Allocate) -> None:
        self._sources = sources
        self._size = size
        self._front_free = self._back_free = True
        self._kv = allocate(size + sum(map(key_count, sources)) + size)
        start = size
        for kv in sources:
            self._kv[:, :, :, start : start + key_count(kv)].copy_(kv)
            start += key_count(kv)

    def take(self, sources: Sequence[KV], voice: KV | None) -> RowContext | None:
        """The context of a row with these sources; None when they do not fit this buffer."""
        size, context, end = self._size, sum(map(key_count, sources)), key_count(self._kv)
        if self._front_free and _same(sources, self._sources[: len(sources)]):
            self._front_free = False
            return self._context(slice(size + context), slice(size), voice)
        if self._back_free and _same(sources, self._sources[len(self._sources) - len(sources) :]):
            self._back_free = False
            return self._context(slice(end - size - context, end), slice(end - size, end), voice)
        return None

    def _context(self, keys: slice, own: slice, voice: KV | None) -> RowContext:
        return RowContext(self._kv[:, :, :, keys], self._kv[:, :, :, own], voice, self._kv)


def _same(a: Sequence[KV], b: Sequence[KV]) -> bool:
    return len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))
