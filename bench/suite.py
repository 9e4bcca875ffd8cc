"""All measurements of one machine in one run, each in a process of its own so that none disturbs another.

    python -m bench.suite cpu                                     # the embedded model, about eight minutes
    python -m bench.suite gpu                                     # released shapes, random weights, under nine minutes
    python -m bench.suite gpu --model jordand/echo-tts-base       # real weights
    python -m bench.suite gpu --quick                             # little of each, in two minutes on any CPU

Writes the result files and plots to ``--out``, for ``gpu`` also ``tables.md``. Exit status 1 when a part has failed or
was out of time. Nothing else should run on the machine meanwhile: ``load_1min`` in the result files is the load average
at the start.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import RESULTS, ROOT

#: Seconds kept for plots and tables at the end.
_RESERVE_S = 10.0
#: Seconds that a part which is out of time gets to stop its servers.
_STOP_S = 5.0
_VOICE = "--voice-seconds 10"
#: The part that compiles, for all behind it: what it has made is in the server's cache.
COMPILING = "compiling"
_UNCOMPILED = {"ECHO_COMPILE": "0", "ECHO_COMPILE_AE": "0"}


@dataclass(frozen=True, slots=True)
class Part:
    """A benchmark to run: its module, its options, and its share of the time left when it begins.

    ``budgeted`` parts take ``--budget`` and shorten themselves. Those that are not ``compiled`` run as if
    torch.compile were turned off.
    """

    module: str
    options: str = ""
    share: float = 1.0
    budgeted: bool = False
    compiled: bool = True


def cpu_parts() -> list[Part]:
    """Return what ``cpu`` runs, in this order."""
    loads = "--seconds 5 --drain 12 --hang-ups 3 --requests 5"
    return [
        Part("serving", f"{loads} --rounds 5 --compare-requests 16 --http"),
        Part("serving", f"{loads} --parts ttfb,hangup,closed --clients 1,8"),
        Part("profile", "--streams 1,2,4,8 --seconds 0.15"),
        Part("sockets", "--turns 2"),
        Part("overhead"),
        Part("parity"),
    ]


def gpu_parts() -> list[Part]:
    """Return what ``gpu`` runs, in this order."""
    loads = f"{_VOICE} --seconds 8 --hang-ups 3 --drain 20 --requests 5"
    in_process = "--parts ttfb,hangup,closed,open --listeners 16,32,64,96,128,192,256"
    at_socket = "--http --parts ttfb,closed,open --clients 1,8,64 --listeners 32,64,128"
    return [
        # Its checks are of the numbers, which must hold without compiling, too.
        Part("parity", share=0.2, compiled=False),
        Part(COMPILING, share=0.4),
        Part("profile", "--streams 1,4,16 --seconds 0.3", share=0.3),
        Part("serving", f"{loads} {in_process}", share=0.62, budgeted=True),
        Part("serving", f"{loads} {at_socket}", budgeted=True),
    ]


def quick_parts() -> list[Part]:
    """Return the same as ``gpu_parts``, but only as much as shows that all of it runs."""
    loads = f"{_VOICE} --seconds 1 --hang-ups 1 --requests 1 --clients 1,4"
    return [
        Part("parity", share=0.4, compiled=False),
        Part(COMPILING, share=0.4),
        Part("profile", "--streams 1,2 --seconds 0.02 --repeats 1", share=0.5),
        Part("serving", f"{loads} --parts ttfb,hangup,closed,open --listeners 2", share=0.6, budgeted=True),
        Part("serving", f"{loads} --http --parts ttfb,closed", budgeted=True),
    ]


def main() -> None:
    """Run the parts, then draw and write."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("machine", choices=["cpu", "gpu"])
    options.add_argument("--model", help="default: tiny for cpu, random-base for gpu, random-tiny with --quick")
    options.add_argument("--device", help="default: cpu for cpu, auto for gpu")
    options.add_argument("--dtype")
    options.add_argument("--minutes", type=float, help="for everything; default: 8.75 for gpu, 20 for cpu")
    options.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    options.add_argument("--quick", action="store_true", help="few requests, short loads")
    given = options.parse_args()
    on_cpu = given.machine == "cpu"
    parts = quick_parts() if given.quick else cpu_parts() if on_cpu else gpu_parts()
    model = given.model or ("random-tiny" if given.quick else "tiny" if on_cpu else "random-base")
    shared = ["--model", model, "--device", given.device or ("cpu" if on_cpu else "auto")]
    shared += ["--dtype", given.dtype] if given.dtype else []
    failed = run_all(parts, shared, given.out, given.minutes or (20.0 if on_cpu else 8.75))
    report = [sys.executable, "-m", "bench.report", "--results", str(given.out.resolve()), "--plot"]
    tables = [] if on_cpu else ["--tables", str(given.out.resolve() / "tables.md")]
    subprocess.run([*report, *tables], cwd=ROOT, check=True)
    if failed:
        sys.exit(f"failed or out of time: {', '.join(failed)}")


def run_all(parts: Sequence[Part], shared: Sequence[str], folder: Path, minutes: float) -> list[str]:
    """Run the parts with the shared options, results to ``folder``; returns those that failed or took too long.

    When the part that compiles is one of them, those behind it run uncompiled: each would take as long again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    end, failed = time.monotonic() + 60 * minutes - _RESERVE_S, list[str]()
    for part in parts:
        seconds = max(1.0, part.share * (end - time.monotonic()))
        budget = ("--budget", f"{0.6 * seconds:.0f}") if part.budgeted else ()
        options = [*shared, *part.options.split(), *budget, "--keep", str(folder.resolve())]
        compiled = part.compiled and COMPILING not in failed
        how = "" if compiled else ", uncompiled"
        print(f"\n== {part.module} {part.options} (up to {seconds:.0f} s{how})", flush=True)
        begun = time.monotonic()
        command = [sys.executable, "-m", f"bench.{part.module}", *options]
        done = run(command, seconds, {} if compiled else _UNCOMPILED)
        print(f"-- {part.module}: {'done' if done else 'FAILED'} after {time.monotonic() - begun:.0f} s", flush=True)
        if not done:
            failed.append(part.module)
    return failed


def run(command: Sequence[str], seconds: float, variables: Mapping[str, str] | None = None) -> bool:
    """Run a command; False when it fails or takes longer than that. No process that it has started survives."""
    environment = {**os.environ, **(variables or {})}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
    try:
        return process.wait(seconds) == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        _end_group(process)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End the process group of a session leader."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        if number == signal.SIGTERM:
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                continue


if __name__ == "__main__":
    main()
