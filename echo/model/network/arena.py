"""One piece of device memory for all keys and values, so that one call can reach those of every row."""

from __future__ import annotations

import weakref
from collections import deque

import torch

from echo.model.network.kv import KV


class Arena:
    """Hands out room for the K/V of so many keys, side by side in one tensor; used by one thread.

    layers, heads, d  of the model; ``keys`` is how many fit in all
    memory            [layers, 2, keys, heads, d]: a key of all heads is contiguous, as attention kernels want it

    Room is free again when the tensor that was handed out is garbage (not when slices of it are), in whatever thread
    that happens: who uses a part of it keeps the whole. Work queued on the device may still read it then, which is
    safe while all work is in one stream. Raises MemoryError when there is no room of that length.
    """

    def __init__(
        self, layers: int, heads: int, d: int, keys: int, *, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        # Zeros, for what was never written is read, if only to be thrown away, and must not be NaN.
        self.memory = torch.zeros(layers, 2, keys, heads, d, dtype=dtype, device=device)
        #: Start and length of the holes, in order, no two of them touching.
        self._holes = [(0, keys)]
        #: Start and length of what has become garbage since; appending is safe from any thread, at any moment.
        self._garbage: deque[tuple[int, int]] = deque()

    @property
    def free(self) -> int:
        """Keys for which there is room, in all holes together."""
        self._collect()
        return sum(length for _, length in self._holes)

    def allocate(self, keys: int) -> KV:
        """Room for ``keys`` keys, ``[layers, 2, heads, keys, d]``, in the first hole that takes it."""
        self._collect()
        for i, (start, length) in enumerate(self._holes):
            if length >= keys:
                rest = (start + keys, length - keys)
                self._holes[i : i + 1] = [rest] if rest[1] else []
                room = self.memory[:, :, start : start + keys].transpose(2, 3)
                if keys:
                    weakref.finalize(room, self._garbage.append, (start, keys))
                return room
        raise MemoryError(f"no room for {keys} keys in a row, {self.free} are free")

    def start(self, kv: KV) -> int:
        """The place of a K/V's first key, counted in keys; a slice of what was handed out will do."""
        return kv.storage_offset() // (self.memory.shape[3] * self.memory.shape[4])

    def holds(self, kv: KV) -> bool:
        """Whether a K/V lies in this memory."""
        return kv.untyped_storage().data_ptr() == self.memory.untyped_storage().data_ptr()

    def _collect(self) -> None:
        """Join what has become garbage with the holes beside it."""
        while self._garbage:
            merged: list[tuple[int, int]] = []
            for hole in sorted([*self._holes, self._garbage.popleft()]):
                if merged and sum(merged[-1]) == hole[0]:
                    hole = (merged[-1][0], merged.pop()[1] + hole[1])
                merged.append(hole)
            self._holes = merged
