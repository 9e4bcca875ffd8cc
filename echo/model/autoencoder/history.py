"""What the causal layers remember of a stream, so that a long signal can be run piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from typing_extensions import override

Tails = tuple[Tensor, ...]
"""The memory of every layer in the order in which the layers run, batch first; empty before the first piece."""


class History:
    """Hands each causal layer the end of its previous input while one piece runs through the network.

    A fresh history holds zeros, which is exactly the zero padding at the start of a signal: running a whole
    signal is the special case of a single piece. Layers call in a fixed order, so their memories need no names.
    The tensors of ``tails`` are never written to; ``next_tails`` are new ones.
    """

    def __init__(self, tails: Tails = ()) -> None:
        self._previous: Iterator[Tensor] | None = iter(tails) if tails else None
        self._next: list[Tensor] = []

    def prepend(self, x: Tensor, count: int, dim: int = -1) -> Tensor:
        """``x`` with the ``count`` values that came before it along ``dim`` (zeros at the start of the signal)."""
        if count == 0:
            return x
        if self._previous is None:
            shape = list(x.shape)
            shape[dim] = count
            before = x.new_zeros(shape)
        else:
            before = next(self._previous)
        joined = torch.cat((before, x), dim)
        self._next.append(self._end(joined, count, dim))
        return joined

    def advance(self, x: Tensor, count: int) -> Tensor:
        """Position [batch] of the first of the next ``count`` frames; kept on the device of ``x``."""
        start = (
            torch.zeros(x.shape[0], dtype=torch.long, device=x.device)
            if self._previous is None
            else next(self._previous)
        )
        self._next.append(start + self._advanced(count))
        return start

    def carry(self, initial: Tensor, run: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Tensor:
        """What ``run`` makes of the state that it returned last; ``initial`` at the start of the signal."""
        result, state = run(initial if self._previous is None else next(self._previous))
        self._next.append(state.clone())
        return result

    def next_tails(self) -> Tails:
        """The memories to continue with after this piece."""
        return tuple(self._next)

    def _end(self, joined: Tensor, count: int, dim: int) -> Tensor:
        """The last ``count`` values; a copy, because a view would keep the whole activation alive."""
        return joined.narrow(dim, joined.shape[dim] - count, count).clone()

    def _advanced(self, count: int) -> int | Tensor:
        """By how much the position moves on in ``count`` frames."""
        return count


class PaddedHistory(History):
    """History of streams that are padded at the end to one length: it remembers what precedes each stream's own end.

    tails  of all streams; not empty: a stream's beginning is zeros
    ends   [batch] latents of each stream, int64
    size   latents of the signal, padding included
    """

    def __init__(self, tails: Tails, ends: Tensor, size: int) -> None:
        super().__init__(tails)
        self._ends = ends
        self._size = size

    @override
    def carry(self, initial: Tensor, run: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Tensor:
        raise NotImplementedError("a state that runs through the padding cannot be continued")

    @override
    def _end(self, joined: Tensor, count: int, dim: int) -> Tensor:
        dim %= joined.ndim
        frames_per_latent = (joined.shape[dim] - count) // self._size
        places = (self._ends * frames_per_latent)[:, None] + torch.arange(count, device=joined.device)
        index = places.view([-1 if i == 0 else count if i == dim else 1 for i in range(joined.ndim)])
        return joined.gather(dim, index.expand([count if i == dim else n for i, n in enumerate(joined.shape)]))

    @override
    def _advanced(self, count: int) -> int | Tensor:
        return self._ends * (count // self._size)


def stack_tails(rows: Sequence[Tails]) -> Tails:
    """Join the memories of several streams along the batch; streams that have not started count as silence."""
    if len(rows) == 1:
        return rows[0]
    template = next((row for row in rows if row), ())
    filled = [row or tuple(torch.zeros_like(tail) for tail in template) for row in rows]
    return tuple(torch.cat(tails) for tails in zip(*filled, strict=True))


def split_tails(tails: Tails) -> list[Tails]:
    """The inverse of ``stack_tails``: one entry per row, which keeps nothing of the others alive."""
    rows = tails[0].shape[0]
    return [tails] if rows == 1 else [tuple(tail[row : row + 1].clone() for tail in tails) for row in range(rows)]
