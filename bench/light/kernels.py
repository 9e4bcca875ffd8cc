"""Stages below the model: versions and ceilings of the machine, and the attention call of captured steps."""

from __future__ import annotations

import math
import shutil
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.light.journal import Log
from bench.light.light import Light
from bench.machine import commit, environment
from bench.roofline import Cost
from echo.model.cuda.compile import obstacle
from echo.model.cuda.deviation import relative_deviation
from echo.model.cuda.graphs import attend_row_by_row, flash

#: Kernels of a launch measurement.
_LAUNCHES = 500
#: Rows of the checked attention call, and the most keys of one.
_ROWS, _KEYS = 65, 600
#: What a row has room for in captured steps (``graphs.py``): latents and keys.
_LONGEST = (640, 4096)
#: Bounds against float64 of bfloat16 inputs: RMS relative to the outputs' RMS, and of a softmax weight's logarithm.
_OUT, _WEIGHT = 0.01, 0.02


def machine(light: Light, log: Log) -> None:
    """Versions; ceilings of copy and matrix product; what a launch costs."""
    facts: dict[str, Any] = {**commit(), **environment(light.device)}
    facts["triton"] = _version("triton")
    facts["compiler"] = next((name for name in ("clang", "gcc", "cc") if shutil.which(name)), None)
    facts["compiling"] = obstacle(light.device) or "possible"
    if light.on_cuda:
        found = torch.cuda.get_device_properties(light.device)
        facts |= {
            "capability": f"{found.major}.{found.minor}",
            "multiprocessors": found.multi_processor_count,
            "memory_gib": round(found.total_memory / 2**30, 1),
            "free_gib": round(torch.cuda.mem_get_info(light.device)[0] / 2**30, 1),
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]  # torch's own
            "flash_attention": torch.backends.cuda.is_flash_attention_available(),
        }
    log.row(kind="machine", **facts)
    for name in ("device", "torch", "python", "triton", "compiler", "compiling", "cudnn", "flash_attention"):
        if name in facts:
            log.note(f"{name}: {facts[name]}")
    for dtype in dict.fromkeys((light.dtype, *light.shapes.decoder_dtypes)):
        ceilings = light.ceilings(dtype)
        log.figure(f"matrix product, {dtype}", ceilings.tflop_per_s, "TFLOP/s")
        log.row(kind="ceilings", dtype=dtype, tflop_per_s=ceilings.tflop_per_s, gbyte_per_s=ceilings.gbyte_per_s)
    log.figure("copy, bytes read and written", light.ceilings(light.dtype).gbyte_per_s, "GB/s")
    _launches(light, log)


def _launches(light: Light, log: Log) -> None:
    x = torch.zeros(256, device=light.device)

    def launch() -> Tensor:
        for _ in range(_LAUNCHES):
            x.add_(1)
        return x

    written = light.time(launch)
    log.figure("a short kernel, launched one by one", 1000 * written.ms / _LAUNCHES, "µs")
    if not light.on_cuda:
        return
    from echo.model.cuda.capture import CudaGraphs

    captured = light.time(CudaGraphs(light.device)(launch))
    log.figure("a short kernel in a CUDA graph", 1000 * captured.ms / _LAUNCHES, "µs")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


class _Call(NamedTuple):
    """Arguments of ``graphs.Kernel`` without the longest row."""

    q: Tensor
    k: Tensor
    v: Tensor
    begin: Tensor
    starts: Tensor
    counts: Tensor


def attention(light: Light, log: Log) -> None:
    """The attention call against float64: random starts, rows without keys, NaN in all keys that no row may read."""
    kernel = flash if light.on_cuda else attend_row_by_row
    deviations, weights = [], []
    for number, latents in enumerate(light.shapes.attention):
        call = _random_call(light, latents, seed=number + 1)
        longest = (min(latents, _LONGEST[0]), _LONGEST[1])
        out, weight = kernel(*call, longest)
        expected, expected_weight, seen = _in_float64(call)
        if not (bool(out.isfinite().all()) and bool(weight[seen].isfinite().all())):
            raise RuntimeError(f"{latents} latents: a key that no row may read has reached the result")
        deviations.append(relative_deviation([out[seen]], [expected[seen]]))
        weights.append(float((weight[seen].double() - expected_weight[seen]).abs().max()))
        log.row(kind="attention", latents=latents, deviation=deviations[-1], weight_off_by=weights[-1])
        cost = _cost(call)
        for most in dict.fromkeys((longest[0], latents)):
            timing = light.time(partial(kernel, *call, (most, _LONGEST[1])))
            log.figure(
                f"{latents} latents, longest row {most}: one call", timing.in_a_row_ms, "ms", floor=light.floor_ms(cost)
            )
        if log.time_left < 1:
            log.note("no time for the rest")
            break
    log.bounded(f"{_ROWS} rows against float64: deviation", max(deviations), _OUT)
    log.bounded(f"{_ROWS} rows against float64: softmax weight off by", max(weights), _WEIGHT)


def _random_call(light: Light, latents: int, seed: int) -> _Call:
    """Rows of random lengths, some empty; keys in random places with holes of NaN between them, some rows without."""
    draw = torch.Generator().manual_seed(seed)
    heads, d = light.shapes.dit.num_heads, light.shapes.dit.head_dim
    cuts = torch.randint(0, latents + 1, (_ROWS - 1,), generator=draw).sort().values.tolist()
    counts = torch.randint(1, _KEYS, (_ROWS,), generator=draw)
    counts[::9] = 0
    starts, end = torch.zeros(_ROWS + 1, dtype=torch.int32), 0
    for row in torch.randperm(_ROWS, generator=draw).tolist():
        starts[row] = end + int(torch.randint(0, 50, (1,), generator=draw))
        end = int(starts[row]) + int(counts[row])
    there = torch.Generator(light.device).manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, heads, d, generator=there, device=light.device, dtype=light.shapes.dtype)

    k, v = torch.full((2, end + 50, heads, d), math.nan, device=light.device, dtype=light.shapes.dtype)
    for start, count in zip(starts.tolist(), counts.tolist(), strict=False):
        k[start : start + count], v[start : start + count] = random(2, count)
    begin, starts, counts = (
        each.to(light.device, torch.int32) for each in (torch.tensor([0, *cuts, latents]), starts, counts)
    )
    return _Call(random(latents), k, v, begin, starts, counts)


def _in_float64(call: _Call) -> tuple[Tensor, Tensor, Tensor]:
    """Output and softmax weight by the definition, and which latents have keys."""
    out, weight = torch.zeros_like(call.q, dtype=torch.float64), call.q.new_zeros(call.q.shape[:2], dtype=torch.float64)
    seen = torch.zeros(len(call.q), dtype=torch.bool, device=call.q.device)
    cuts = call.begin.tolist()
    rows = zip(cuts, cuts[1:], call.starts.tolist(), call.counts.tolist(), strict=False)
    for first, end, start, count in rows:
        if end == first or not count:
            continue
        q, k, v = call.q[first:end], call.k[start : start + count], call.v[start : start + count]
        scores = torch.einsum("qhd,khd->qhk", q.double(), k.double()) / math.sqrt(q.shape[-1])
        out[first:end] = torch.einsum("qhk,khd->qhd", scores.softmax(-1), v.double())
        weight[first:end] = scores.logsumexp(-1)
        seen[first:end] = True
    return out, weight, seen


def _cost(call: _Call) -> Cost:
    """Every attended key and value read once, every query read and output written once."""
    width = call.q.shape[1] * call.q.shape[2]
    lengths, counts = call.begin.diff(), call.counts
    flops = 4 * width * int((lengths * counts).sum())
    read = 2 * width * int(counts[lengths > 0].sum()) + 2 * width * len(call.q)
    return Cost(flops, call.q.element_size() * read)
