"""Runs benchmarks one after the other within a time: each in a process of its own, so that none can spoil another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import ROOT

#: Kept for plotting and writing at the end.
_RESERVE_S = 10.0
#: What a part that is out of time gets to stop its servers.
_STOP_S = 5.0


@dataclass(frozen=True, slots=True)
class Part:
    """A benchmark to run: its module, its options, its share of the time that is left when it begins.

    ``budgeted`` parts take ``--budget`` and cut themselves short.
    """

    module: str
    options: tuple[str, ...] = ()
    share: float = 1.0
    budgeted: bool = False


def run_all(parts: Sequence[Part], shared: Sequence[str], folder: Path, minutes: float) -> list[str]:
    """Run the parts with the shared options, results to ``folder``; returns those that failed or took too long."""
    folder.mkdir(parents=True, exist_ok=True)
    end, failed = time.monotonic() + 60 * minutes - _RESERVE_S, []
    for part in parts:
        seconds = max(1.0, part.share * (end - time.monotonic()))
        budget = ("--budget", f"{0.6 * seconds:.0f}") if part.budgeted else ()
        options = [*shared, *part.options, *budget, "--keep", str(folder.resolve())]
        print(f"\n== {part.module} {' '.join(part.options)} (up to {seconds:.0f} s)", flush=True)
        begun = time.monotonic()
        done = run([sys.executable, "-m", f"bench.{part.module}", *options], seconds)
        print(f"-- {part.module}: {'done' if done else 'FAILED'} after {time.monotonic() - begun:.0f} s", flush=True)
        if not done:
            failed.append(part.module)
    return failed


def run(command: Sequence[str], seconds: float) -> bool:
    """Run a command; False when it fails or takes longer than that. Nothing that it has started is left behind."""
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    try:
        return process.wait(seconds) == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        _end_group(process)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads a session, and its servers."""
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
