"""Parity and the whole table of one machine in one run of under nine minutes, meant for a GPU.

    python -m bench.gpu_table                                   # released shapes with random weights
    python -m bench.gpu_table --model jordand/echo-tts-base     # real weights
    python -m bench.gpu_table --quick                           # a minute on any CPU, to see that all of it runs

Every part is a process of its own, so that none can spoil another; what does not fit the time is cut short. Writes the
JSON files, the plot and ``table.md`` to ``--out`` and exits with status 1 when parity or a part has failed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bench import RESULTS, ROOT
from bench.table import load, stages, summary

#: Kept for plotting and writing at the end.
_RESERVE_S = 10.0


@dataclass(frozen=True, slots=True)
class Part:
    """A benchmark to run: its module, its options, its share of the time that is left when it begins."""

    module: str
    options: tuple[str, ...]
    share: float


def main() -> None:
    """Run the parts, then draw and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="default: random-base, with --quick random-tiny")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype")
    parser.add_argument("--minutes", type=float, default=8.75, help="for everything")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--quick", action="store_true", help="few requests, short loads")
    given = parser.parse_args()
    end = time.monotonic() + 60 * given.minutes - _RESERVE_S
    given.out.mkdir(parents=True, exist_ok=True)
    model = given.model or ("random-tiny" if given.quick else "random-base")
    shared = ["--model", model, "--device", given.device, *(["--dtype", given.dtype] if given.dtype else [])]
    failed = []
    for part in parts(quick=given.quick):
        seconds = max(1.0, part.share * (end - time.monotonic()))
        if not run(part, [*shared, "--keep", str(given.out.resolve())], seconds):
            failed.append(part.module)
    finish(given.out)
    if failed:
        sys.exit(f"failed or out of time: {', '.join(failed)}")


def parts(*, quick: bool) -> list[Part]:
    """What is run, in this order."""
    if quick:
        load = ("--clients", "1,4", "--seconds", "1", "--rounds", "1", "--hang-ups", "1")
        return [
            Part("parity", (), 0.4),
            Part("profile", ("--streams", "1,2", "--seconds", "0.02"), 0.5),
            Part("ttfb", ("--requests", "1"), 0.5),
            Part("throughput", load, 1.0),
        ]
    return [
        Part("parity", (), 0.25),
        Part("profile", ("--streams", "1,2,4,8", "--seconds", "0.3"), 0.3),
        Part("ttfb", ("--requests", "5"), 0.25),
        Part("throughput", ("--seconds", "8", "--rounds", "2", "--hang-ups", "3"), 1.0),
    ]


def run(part: Part, options: list[str], seconds: float) -> bool:
    """Run a part; False when it fails or takes longer than its time."""
    print(f"\n== {part.module} (up to {seconds:.0f} s)", flush=True)
    begun = time.monotonic()
    budget = ("--budget", f"{0.6 * seconds:.0f}") if part.module == "throughput" else ()
    command = [sys.executable, "-m", f"bench.{part.module}", *options, *part.options, *budget]
    try:
        done = subprocess.run(command, cwd=ROOT, timeout=seconds, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        done = False
    print(f"-- {part.module}: {'done' if done else 'FAILED'} after {time.monotonic() - begun:.0f} s", flush=True)
    return done


def finish(folder: Path) -> None:
    """Draw the plots and write the tables of a folder of results."""
    plots = [str(path.resolve()) for path in folder.glob("throughput-*.json")]
    if plots:
        subprocess.run([sys.executable, "-m", "bench.plot", *plots], cwd=ROOT, check=False)
    records = load(folder)
    text = "\n\n".join((summary(records), stages(records)))
    (folder / "table.md").write_text(text + "\n", encoding="utf-8")
    print("\n" + text)


if __name__ == "__main__":
    main()
