"""Queries of a few attention heads, taken out of a forward that runs anyway: where in the text its latents are."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from echo.model.network.kv import KV

Heads = tuple[tuple[int, int], ...]
"""Layer and head of each."""

Sink = Callable[[Tensor], None]
"""Takes the queries ``[heads, size, d]`` of a row in a forward. It may keep them, they are its own."""


class Watch:
    """Copies the queries of some heads, layer after layer, into ``into [heads, latents, d]``."""

    def __init__(self, heads: Heads, into: Tensor) -> None:
        self._into = into
        self._of: dict[int, list[tuple[int, int]]] = {}
        for slot, (layer, head) in enumerate(heads):
            self._of.setdefault(layer, []).append((slot, head))

    def take(self, layer: int, q: Tensor) -> None:
        """Copy from the queries ``[latents, heads, d]`` of a layer."""
        for slot, head in self._of.get(layer, ()):
            self._into[slot, : len(q)].copy_(q[:, head])


def hand_out(queries: Tensor, sizes: Sequence[int], sinks: Sequence[Sink | None]) -> None:
    """Give each row that has a sink its part of ``queries [heads, latents, d]``, whose rows have these sizes."""
    start = 0
    for size, sink in zip(sizes, sinks, strict=True):
        if sink is not None:
            sink(queries[:, start : start + size].clone())
        start += size


def keys_of(text: KV, heads: Heads) -> Tensor:
    """Keys ``[heads, n, d]`` f32 of a text for some heads."""
    return torch.stack([text[layer, 0, head] for layer, head in heads]).float()


def text_attention(queries: Tensor, keys: Tensor) -> Tensor:
    """How much latents attend to each token of the text and to nothing else, mean of the heads.

    queries [heads, size, d], keys [heads, n, d]; returns [size, n] f32, each row sums to 1.
    """
    return single_attention(queries, keys).mean(0)


def single_attention(queries: Tensor, keys: Tensor) -> Tensor:
    """The same of every head by itself, ``[heads, size, n]``."""
    scores: Tensor = queries.float() @ keys.transpose(-1, -2) * queries.shape[-1] ** -0.5
    return scores.softmax(-1)
