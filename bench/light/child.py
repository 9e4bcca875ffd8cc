"""Checks that may break the CUDA context, each in a process of its own: ``python -m bench.light.child NAME DEVICE``.

``capture``  a capture that fails: the fall-back has to answer, and the next capture has to work
``poison``   a kernel that fails for good: the engine has to say that it is not healthy

A check prints what it found as its last line, a list of [name, whether it is as it should be].
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from bench import ROOT
from bench.light.journal import Log
from bench.light.light import Light
from bench.light.rows import random_rows
from bench.light.steps import DEVIATION
from echo.engines.accelerate import Acceleration, make_arena
from echo.engines.block import BlockEngine
from echo.errors import EchoError
from echo.model.cuda.capture import uncaptured
from echo.model.cuda.deviation import relative_deviation
from echo.model.cuda.graphs import CapturedForward, attend_row_by_row, flash
from echo.model.network.dit import EchoDiT
from echo.stream import FrameStream
from echo.types import Utterance

Found = list[tuple[str, bool]]

_TITLES = {
    "capture": "a capture that fails is noticed and leaves no damage: checks passed",
    "poison": "an engine that meets an error tells the truth about itself: checks passed",
}
#: Seconds that a check may take, less where its stage ends sooner; and at least.
_MOST_S, _LEAST_S = 90.0, 5.0
#: Seconds in which an engine has to notice that its device is lost.
_NOTICE_S = 10.0
#: Deviation of a step from itself.
_SAME = 1e-3
_BUCKETS, _BYTES = (32, 96), 64 * 2**20


def run(name: str, light: Light, log: Log) -> None:
    """Run a check in a process of its own and write what it found; raises RuntimeError when it has not ended well."""
    command = [sys.executable, "-m", "bench.light.child", name, str(light.device)]
    seconds = max(_LEAST_S, min(_MOST_S, log.time_left))
    try:
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, timeout=seconds, text=True, check=False)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"the check {name} has not ended in {seconds:.0f} s") from None
    lines = done.stdout.strip().splitlines()
    # After a lost device the process may well crash at its end: what counts is what it has found before.
    if not lines or not lines[-1].startswith("["):
        raise RuntimeError(f"the check {name} has ended with status {done.returncode} and found nothing; see the log")
    found = json.loads(lines[-1])
    for what, good in found:
        log.row(kind="check", name=name, what=what, good=good)
        if not good:
            log.note(f"not so: {what}")
    log.bounded(_TITLES[name], sum(good for _, good in found), len(found), sign="≥")


def main() -> None:
    """Run a check and print what it found."""
    name, device = sys.argv[1:]
    found = _CHECKS[name](_small(torch.device(device)))
    print(json.dumps(found), flush=True)


def _small(device: torch.device) -> Light:
    """A very small model: its heads are as wide as FlashAttention wants them."""
    from pathlib import Path

    from bench.golden import VECTORS
    from bench.light.shapes import TINY

    shapes = TINY
    if device.type == "cuda":
        from dataclasses import replace

        shapes = replace(TINY, dtype=torch.bfloat16)
    return Light(shapes, device, compile=False, cache=Path(), vectors=VECTORS)


# -- a capture that fails


def _failed_capture(light: Light) -> Found:
    dit = light.model.dit
    dit.arena = make_arena(dit, _BYTES, _BUCKETS[-1])
    kernel = flash if light.on_cuda else attend_row_by_row
    calls = 0

    def breaks(*arguments: Any) -> tuple[Tensor, Tensor]:
        # The calls that warm up succeed, as they would; what is not allowed in a capture comes with the captured one.
        nonlocal calls
        calls += 1
        if calls > 2 * dit.config.num_layers * 2:
            if not light.on_cuda:
                raise RuntimeError("a stand-in for what cannot be captured")
            arguments[0].sum().item()
        return kernel(*arguments)

    failed = _forward(light, dit, breaks)
    started = failed.start()
    dit.captured = failed
    step = random_rows(dit, _BUCKETS[-1])
    found = [
        ("a capture that fails is noticed", not started),
        ("behind it, steps run row by row", relative_deviation(step.velocity(dit), step.as_written(dit)) <= _SAME),
    ]
    if light.on_cuda:
        own = torch.cuda.current_stream(light.device) == torch.cuda.default_stream(light.device)
        found.append(("behind it, the stream is the thread's own", own))
    again = _forward(light, dit, kernel)
    found.append(("behind it, the next capture works", again.start()))
    dit.captured = again
    found.append(("and computes the same", relative_deviation(step.velocity(dit), step.as_written(dit)) <= DEVIATION))
    return found


def _forward(light: Light, dit: EchoDiT, kernel: Callable[..., tuple[Tensor, Tensor]]) -> CapturedForward:
    assert dit.arena is not None
    capture = None if light.on_cuda else uncaptured
    return CapturedForward(dit, dit.arena, max_rows=8, buckets=_BUCKETS, kernel=kernel, capture=capture)


# -- a device that is lost


def _poison(light: Light) -> Found:
    """On CUDA an index outside of its tensor, which no later call survives; elsewhere an ordinary error."""
    model = light.model
    with light.engine(Acceleration(model)) as engine:
        utterance = Utterance(text="Good morning.", plan=light.shapes.plan(), seed=1)
        found = [("an engine speaks and is healthy", _speaks(engine.speak(utterance)) and engine.healthy())]
        step = model.step

        def fails(samplers: Sequence[Any]) -> None:
            if light.on_cuda:
                torch.zeros(1, device=light.device)[torch.tensor([99], device=light.device)].cpu()
            raise RuntimeError("an ordinary error")

        model.step = fails  # type: ignore[method-assign]
        found.append(("an utterance that fails says so", not _speaks(engine.speak(utterance))))
        model.step = step  # type: ignore[method-assign]
        if light.on_cuda:
            found.append(("an engine whose device is lost says so", _within(lambda: not engine.healthy(), _NOTICE_S)))
            found.append(("and takes no more work", not _speaks(engine.speak(utterance))))
            print(json.dumps(found), flush=True)  # closing it may crash
        else:
            found.append(("an engine speaks again after an ordinary error", _speaks_again(engine, utterance)))
    return found


def _speaks_again(engine: BlockEngine, utterance: Utterance) -> bool:
    return engine.healthy() and _speaks(engine.speak(utterance))


def _speaks(stream: FrameStream) -> bool:
    try:
        return sum(len(frame.samples) for frame in stream) > 0
    except EchoError:
        return False


def _within(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return met


_CHECKS: dict[str, Callable[[Light], Found]] = {"capture": _failed_capture, "poison": _poison}

if __name__ == "__main__":
    main()
