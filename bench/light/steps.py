"""Stages of the transformer's steps: captured as they were written, and compiled."""

from __future__ import annotations

import time
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from bench.light.journal import Log
from bench.light.light import Light, Skip
from bench.light.rows import Rows, random_rows
from bench.roofline import synchronize
from echo.model.cuda.deviation import relative_deviation

#: Deviation that another order of sums may cause after all layers, as ``graphs.py`` allows.
DEVIATION = 0.05
#: Kernels of a profile that are kept, and steps that are profiled.
_TOP, _PROFILED = 25, 3


def uncompiled(light: Light, log: Log) -> None:
    """Replays of every bucket, and the kernels of two of them."""
    forward = light.forward()
    if not forward.start():
        raise RuntimeError("the steps cannot be captured")
    light.model.dit.captured = forward
    _steps(light, log, "captured")


def compiled(light: Light, log: Log) -> None:
    """Compile and capture everything as the server does at its start; deviation, and the same replays."""
    if light.accelerated:
        raise Skip("the model has been compiled before")
    dit = light.model.dit
    dit.captured = None
    expected = {}
    for latents in light.shapes.shown:
        step = random_rows(dit, latents)
        expected[latents] = [velocity.cpu() for velocity in step.as_written(dit)]
        del step
    begun = time.perf_counter()
    acceleration = light.acceleration()
    synchronize(light.device)
    log.figure("compiling and capturing for the first time", time.perf_counter() - begun, "s")
    for latents, wanted in expected.items():
        found = [velocity.cpu() for velocity in random_rows(dit, latents).velocity(dit)]
        log.bounded(f"{latents} latents: deviation from uncompiled", relative_deviation(found, wanted), DEVIATION)
    _steps(light, log, "compiled")
    log.bounded("calls that were not compiled or captured", acceleration.misses, 0)
    log.row(kind="compiler", **_counters())


def _steps(light: Light, log: Log, how: str) -> None:
    dit = light.model.dit
    # The buckets of the table first, in case there is no time for all.
    for latents in (*light.shapes.shown, *(size for size in light.shapes.buckets if size not in light.shapes.shown)):
        if log.time_left < 1:
            log.note("no time for the other buckets")
            break
        step = random_rows(dit, latents)
        timing = light.time(partial(step.velocity, dit))
        cost = step.cost(dit)
        floor = light.floor_ms(cost)
        log.row(
            kind="step",
            how=how,
            latents=latents,
            rows=len(step.rows),
            floor_ms=floor,
            tflop_per_s=cost.flops / timing.in_a_row_ms / 1e9,
            **asdict(timing),
        )
        if latents in light.shapes.shown:
            log.figure(f"step of {latents} latents, {how}", timing.ms, "ms", floor=floor)
            try:
                _kernels(light, log, step, latents, how)
            except RuntimeError as error:
                log.note(f"the profiler does not work here: {error}")


def _kernels(light: Light, log: Log, step: Rows, latents: int, how: str) -> None:
    """Profile a step: how many kernels, how long they run in all, and the longest of them."""
    dit = light.model.dit
    activities = [torch.profiler.ProfilerActivity.CPU]
    if light.on_cuda:
        activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(_PROFILED):
            step.velocity(dit)
        synchronize(light.device)
    spent = "self_device_time_total" if light.on_cuda else "self_cpu_time_total"
    found = [(event.key, event.count, getattr(event, spent)) for event in profile.key_averages()]
    found = sorted((each for each in found if each[2] > 0), key=lambda each: -each[2])
    if not found:
        raise RuntimeError("it has seen nothing")
    whole = sum(each[2] for each in found) / _PROFILED
    count = sum(each[1] for each in found) / _PROFILED
    what = "kernels" if light.on_cuda else "operations"
    log.figure(f"step of {latents} latents, {how}, {what} run for", whole / 1000, "ms")
    log.figure(f"step of {latents} latents, {how}, {what}", round(count))
    for key, times, total in found[:_TOP]:
        log.row(
            kind="kernel",
            how=how,
            latents=latents,
            name=key[:200],
            count=times / _PROFILED,
            us=round(total / _PROFILED, 1),
            share=round(total / _PROFILED / whole, 4),
        )


def _counters() -> dict[str, Any]:
    """What torch.compile counted."""
    from torch._dynamo.utils import counters

    return {
        "graphs": dict(counters["stats"]),
        "breaks": dict(counters["graph_break"]),
        "inductor": {name: count for name, count in counters["inductor"].items() if "cache" in name},
    }
