"""One tensor on the device for all keys and values, so that one attention call can read those of every row."""

from __future__ import annotations

import weakref
from collections import deque

import torch

from echo.model.network.kv import KV


class Arena:
    """Allocates K/V buffers inside one tensor, first fit; used by one thread.

    layers, heads, d  of the model; ``keys`` is the capacity
    memory            [layers, 2, keys, heads, d]: a key of all heads is contiguous, as attention kernels want it

    A buffer is free again when the tensor that was returned is garbage collected, in any thread; a view of it keeps
    only itself alive, so users of a part hold the whole. Work queued on the device may still read a freed buffer, which
    is safe while all work is in one CUDA stream. Raises MemoryError when no free range is long enough.
    """

    def __init__(
        self, layers: int, heads: int, d: int, keys: int, *, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        # Zeros, because padding reads keys that were never written, and NaN would survive the masking.
        self.memory = torch.zeros(layers, 2, keys, heads, d, dtype=dtype, device=device)
        #: Free list: start and length of the free ranges, in order, no two of them adjacent.
        self._free = [(0, keys)]
        #: Start and length of buffers that were garbage collected since; appending is safe from any thread.
        self._garbage: deque[tuple[int, int]] = deque()

    @property
    def free(self) -> int:
        """Free keys, over all ranges."""
        self._collect()
        return sum(length for _, length in self._free)

    def allocate(self, keys: int) -> KV:
        """A buffer ``[layers, 2, heads, keys, d]`` in the first free range that is long enough."""
        self._collect()
        for i, (start, length) in enumerate(self._free):
            if length >= keys:
                rest = (start + keys, length - keys)
                self._free[i : i + 1] = [rest] if rest[1] else []
                buffer = self.memory[:, :, start : start + keys].transpose(2, 3)
                if keys:
                    weakref.finalize(buffer, self._garbage.append, (start, keys))
                return buffer
        raise MemoryError(f"no free range of {keys} keys, {self.free} are free in all")

    def start(self, kv: KV) -> int:
        """Index of a K/V's first key in ``memory``; a slice of a buffer will do."""
        return kv.storage_offset() // (self.memory.shape[3] * self.memory.shape[4])

    def holds(self, kv: KV) -> bool:
        """Whether a K/V is a view of ``memory``."""
        return bool(kv.untyped_storage()._cdata == self.memory.untyped_storage()._cdata)

    def _collect(self) -> None:
        """Return collected buffers to the free list and merge adjacent ranges."""
        while self._garbage:
            merged: list[tuple[int, int]] = []
            for span in sorted([*self._free, self._garbage.popleft()]):
                if merged and sum(merged[-1]) == span[0]:
                    span = (merged[-1][0], merged.pop()[1] + span[1])
                merged.append(span)
            self._free = merged
