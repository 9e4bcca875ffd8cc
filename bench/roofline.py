"""What a device can do at most, measured: a large matrix product and a large copy."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Measured peaks in one number format."""

    dtype: str
    tflop_per_s: float
    gbyte_per_s: float

    def limit(self, flops: float, nbytes: float) -> tuple[float, str]:
        """Least seconds for so many operations and bytes, and which of the two decides."""
        compute, memory = flops / (self.tflop_per_s * 1e12), nbytes / (self.gbyte_per_s * 1e9)
        return (compute, "compute") if compute >= memory else (memory, "memory")


def gap(seconds: float, limit: float) -> float | None:
    """How many times longer than the limit it took; None without a limit."""
    return round(seconds / limit, 2) if limit > 0 else None


def measure_ceilings(device: torch.device, dtype: torch.dtype) -> Ceilings:
    """Multiply and copy large tensors; the best of several tries. A copy counts what it reads and writes."""
    large = device.type != "cpu"
    n = 8192 if large else 1024
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    flops = 2 * n**3 / _best(lambda: torch.mm(a, b, out=out), device, 20)
    source = torch.zeros(2**30 if large else 2**28, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    rate = 2 * source.numel() / _best(lambda: target.copy_(source), device, 5)
    return Ceilings(str(dtype).removeprefix("torch."), round(flops / 1e12, 4), round(rate / 1e9, 2))


def _best(run: Callable[[], object], device: torch.device, tries: int) -> float:
    taken = []
    for _ in range(tries + 2):
        started = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        elif device.type == "mps":
            torch.mps.synchronize()
        taken.append(time.perf_counter() - started)
    return min(taken[2:])
