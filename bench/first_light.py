"""The first ten minutes on a GPU: what works, how fast, and how far from the device's limits.

    python -m bench.first_light                      # on a GPU: random weights in the released shapes, ten minutes
    python -m bench.first_light --tiny               # on any machine: a very small model, to try the script itself
    python -m bench.first_light --stages machine,attention,golden

Needs torch, numpy and safetensors. Writes ``first_light.jsonl`` (every result at once, as it is measured),
``first_light.txt`` (the table that is printed at the end) and ``first_light.log`` to ``--out``, by default ``$OUT`` or
``bench/results/first_light``. The stages run one after the other in a process of their own. It is started again with
the next stage when one takes too long, ends it, or leaves the device unusable. ``bench/README.md`` tells what each
stage answers.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import RESULTS, ROOT
from bench.light.journal import Log, Status, read
from bench.light.plan import NO_DEVICE, STAGES, Timetable
from bench.light.table import page

#: Seconds that a stage may take beyond its deadline before its process is ended: it looks at the clock between two
#: measurements only.
_GRACE_S = 15.0
_LOOK_S = 0.2

Command = Callable[[Sequence[str], Timetable, bool], Sequence[str]]
"""Stages to run, when they have to end, and whether to compile -> the command of a worker."""


def main() -> None:
    """Run the stages, then print the table; exit status 1 when a stage has failed or was stopped."""
    names = [stage.name for stage in STAGES]
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tiny", action="store_true", help="a very small model and short loads, on any machine")
    options.add_argument("--device", default="auto", help="auto, cuda, cuda:1 or cpu (with --tiny)")
    options.add_argument("--stages", default=",".join(names), help="some of them, in their order")
    options.add_argument("--seconds", type=float, default=600.0, help="for all of them")
    options.add_argument("--out", type=Path, default=os.environ.get("OUT") or RESULTS / "first_light", metavar="FOLDER")
    options.add_argument("--vectors", type=Path, metavar="FOLDER", help="golden vectors; default: those of the tests")
    given = options.parse_args()
    wanted = given.stages.split(",")
    if unknown := [name for name in wanted if name not in names]:
        options.error(f"--stages: {unknown[0]!r} is none of {', '.join(names)}")
    given.out.mkdir(parents=True, exist_ok=True)
    out = given.out.resolve()
    shared = ["--device", given.device, *(["--tiny"] if given.tiny else [])]
    shared += ["--vectors", str(given.vectors.resolve())] if given.vectors else []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside"))  # so that the table is written
    with tempfile.TemporaryDirectory(prefix="echo-compiled-") as cache:
        # An empty one, because the first compilation is measured; the same for workers that are started again.
        os.environ |= {"TORCHINDUCTOR_CACHE_DIR": cache, "TRITON_CACHE_DIR": f"{cache}/triton"}

        def command(stages: Sequence[str], times: Timetable, compile: bool) -> Sequence[str]:
            place = ["--out", str(out), "--cache", cache, "--stages", ",".join(stages)]
            clock = ["--began", repr(times.began), "--seconds", repr(times.seconds)]
            more = [] if compile else ["--no-compile"]
            return [sys.executable, "-m", "bench.light.worker", *shared, *place, *clock, *more]

        good = supervise([name for name in names if name in wanted], command, out, given.seconds)
    sys.exit(not good)


def supervise(stages: Sequence[str], command: Command, out: Path, seconds: float) -> bool:
    """Run stages in workers, print and write the table; False when one has failed or was stopped."""
    results = out / "first_light.jsonl"
    results.unlink(missing_ok=True)
    times = Timetable(time.monotonic(), seconds)
    try:
        with (out / "first_light.log").open("w") as log:
            while left := _left(stages, results):
                if times.deadline(left[0], time.monotonic()) is None:
                    for name in left:
                        Log(results, name).end(Status.SKIPPED, "there was no time left")
                    break
                # A compilation that took too long once would do so again, at the expense of all that follows.
                stopped = read(results).get("compile")
                compiles = stopped is None or stopped.status is not Status.STOPPED
                if _watch(command(left, times, compiles), left, results, log.fileno()) == NO_DEVICE:
                    for name in left:
                        Log(results, name).end(Status.FAILED, "there is no CUDA device here; --tiny runs anywhere")
    finally:
        outcomes = read(results)
        table = page(outcomes)
        (out / "first_light.txt").write_text(f"{table}\n", encoding="utf-8")
        print(f"\n{table}", flush=True)
    return all(outcome.status in (Status.DONE, Status.SKIPPED) for outcome in outcomes.values())


def _left(stages: Sequence[str], results: Path) -> list[str]:
    """The stages that have not ended yet."""
    found = read(results)
    return [name for name in stages if name not in found or found[name].status is Status.RUNNING]


def _watch(command: Sequence[str], stages: Sequence[str], results: Path, log: int) -> int:
    """Run a worker until it ends or a stage takes too long, and note for that stage why it has not ended by itself.

    Returns its exit status.
    """
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=log)
    why = ""
    try:
        while process.poll() is None and not why:
            time.sleep(_LOOK_S)
            for outcome in read(results).values():
                if outcome.status is Status.RUNNING and time.monotonic() > outcome.deadline + _GRACE_S:
                    why = "it took too long and was stopped"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        status = process.wait()
    if status == NO_DEVICE:
        return status
    found = read(results)
    running = [name for name in stages if name in found and found[name].status is Status.RUNNING]
    # A worker that ends before it has begun anything takes its first stage with it, else it would be started for ever.
    none_ended = not any(name in found for name in stages)
    for name in running or (list(stages[:1]) if none_ended else []):
        Log(results, name).end(Status.STOPPED, why or f"its process has ended with status {status}; see the log")
    return status


if __name__ == "__main__":
    main()
