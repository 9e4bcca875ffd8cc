from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from echo.model.network.modulation import ModulationCache


def test_tables_are_computed_once_and_the_least_recently_used_goes_first() -> None:
    computed: list[tuple[float, ...]] = []

    def compute(times: Sequence[float]) -> Tensor:
        computed.append(tuple(times))
        return torch.tensor(times)

    cache = ModulationCache(compute, capacity=2)
    first = cache.table([0.9, 0.5])
    cache.table([0.8])
    assert cache.table((0.9, 0.5)) is first
    cache.table([0.7])  # drops [0.8]
    assert cache.table([0.9, 0.5]) is first
    cache.table([0.8])
    assert computed == [(0.9, 0.5), (0.8,), (0.7,), (0.8,)]
