"""The process in which the stages run; ``bench.first_light`` starts it.

Exit status 3: a stage has left the device unusable, and those behind it need a new process.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import traceback
from pathlib import Path

import torch

from bench.golden import VECTORS
from bench.light import decoder, engine, kernels, load, model, steps
from bench.light.journal import Log, Status
from bench.light.light import Light, Skip
from bench.light.plan import NO_DEVICE, STAGES, Timetable
from bench.light.shapes import RELEASED, TINY
from bench.roofline import synchronize

_RUN = {
    "machine": kernels.machine,
    "attention": kernels.attention,
    "golden": model.golden,
    "capture": model.capture,
    "steps": steps.uncompiled,
    "compile": steps.compiled,
    "encoders": model.encoders,
    "decoder": decoder.decoder,
    "engine": engine.engine,
    "load": load.load,
    "activations": decoder.activations,
    "socket": load.socket,
}
#: What takes the place of CUDA where there is none.
_NEED_CUDA = {
    "attention": "attention row by row stands in for FlashAttention",
    "capture": "plain calls stand in for CUDA graphs",
    "steps": "plain calls stand in for CUDA graphs",
    "compile": "the blocks are traced, not compiled",
    "encoders": "plain calls stand in for CUDA graphs, and there is no cuDNN",
    "decoder": "plain calls stand in for CUDA graphs",
    "engine": "the engine meets an ordinary error instead of a lost device",
    "activations": "plain calls stand in for CUDA graphs, and nothing is compiled",
}
#: Lines of a traceback that are kept.
_TRACE = 12


class _Notes(logging.Handler):
    """Writes what the model logs (what was compiled, what fell back) to the stage that runs."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.log: Log | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """See ``logging.Handler``."""
        if self.log is not None:
            self.log.note(record.getMessage())


def main() -> None:
    """Run stages one after the other, until one has left the device unusable."""
    options = argparse.ArgumentParser()
    options.add_argument("--tiny", action="store_true")
    options.add_argument("--device", required=True)
    options.add_argument("--stages", required=True)
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--cache", type=Path, required=True)
    options.add_argument("--began", type=float, required=True)
    options.add_argument("--seconds", type=float, required=True)
    options.add_argument("--vectors", type=Path, default=VECTORS)
    options.add_argument("--no-compile", action="store_true")
    given = options.parse_args()
    name = ("cuda" if torch.cuda.is_available() else "cpu") if given.device == "auto" else given.device
    light = Light(
        TINY if given.tiny else RELEASED,
        torch.device(name),
        compile=not given.no_compile,
        cache=given.cache,
        vectors=given.vectors,
    )
    if light.device.type != "cuda" and not given.tiny:
        sys.exit(NO_DEVICE)
    times, notes = Timetable(given.began, given.seconds), _Notes()
    logging.getLogger("echo").addHandler(notes)
    logging.getLogger("echo").setLevel(logging.INFO)
    for stage in [stage for stage in STAGES if stage.name in given.stages.split(",")]:
        log = notes.log = Log(given.out / "first_light.jsonl", stage.name)
        deadline = times.deadline(stage.name, time.monotonic())
        if deadline is None:
            log.end(Status.SKIPPED, "there was no time left")
            continue
        print(f"== {stage.name}: {stage.question}", flush=True)
        log.begin(deadline)
        if not light.on_cuda and stage.name in _NEED_CUDA:
            log.note(f"needs CUDA: {_NEED_CUDA[stage.name]}")
        if not run(light, stage.name, log):
            sys.exit(3)


def run(light: Light, name: str, log: Log) -> bool:
    """Run one stage; False when the device cannot be used any more."""
    try:
        _RUN[name](light, log)
        synchronize(light.device)
    except Skip as reason:
        log.end(Status.SKIPPED, str(reason))
    except Exception:
        log.end(Status.FAILED, "".join(traceback.format_exc().splitlines(keepends=True)[-_TRACE:]))
    else:
        log.end(
            Status.FAILED if log.broken else Status.DONE, "".join(f"out of bounds: {name}\n" for name in log.broken)
        )
    try:
        synchronize(light.device)
    except RuntimeError:
        return False
    return True


if __name__ == "__main__":
    main()
