"""Parity and the whole table of one machine in one run of under nine minutes, meant for a GPU.

    python -m bench.gpu_table                                   # released shapes with random weights
    python -m bench.gpu_table --model jordand/echo-tts-base     # real weights
    python -m bench.gpu_table --quick                           # two minutes on any CPU, to see that all of it runs

What does not fit the time is cut short. Writes the JSON files, the plots and ``table.md`` to ``--out`` and exits with
status 1 when parity or a part has failed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from bench import RESULTS, ROOT
from bench.runner import Part, run_all
from bench.table import load, stages, summary

#: Reference clip: as long as most people's.
_VOICE = ("--voice-seconds", "10")
#: Real-time listeners of the open loop; the aim is 64 and more.
_LISTENERS = "16,32,64,96,128,192,256"


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
    model = given.model or ("random-tiny" if given.quick else "random-base")
    shared = ["--model", model, "--device", given.device, *(["--dtype", given.dtype] if given.dtype else [])]
    failed = run_all(quick_parts() if given.quick else parts(), shared, given.out, given.minutes)
    finish(given.out)
    if failed:
        sys.exit(f"failed or out of time: {', '.join(failed)}")


def parts() -> list[Part]:
    """What is run, in this order."""
    loads = ("--seconds", "8", "--rounds", "2", "--hang-ups", "3", "--hear-out", "20", "--requests", "5")
    everything = (*_VOICE, *loads, "--parts", "hangup,closed,open", "--listeners", _LISTENERS)
    socket = (*_VOICE, *loads, "--parts", "closed,open", "--clients", "1,8,64", "--listeners", "32,64,128", "--http")
    return [
        Part("parity", share=0.25),
        Part("profile", ("--streams", "1,4,16", "--seconds", "0.3"), share=0.3),
        Part("suite", everything, share=0.62, budgeted=True),
        Part("suite", socket, budgeted=True),
    ]


def quick_parts() -> list[Part]:
    """The same, as little of it as shows that it runs."""
    loads = ("--seconds", "1", "--rounds", "1", "--compare-requests", "8", "--hang-ups", "1", "--requests", "1")
    return [
        Part("parity", share=0.4),
        Part("profile", ("--streams", "1,2", "--seconds", "0.02"), share=0.5),
        Part("suite", (*_VOICE, *loads, "--clients", "1,4", "--listeners", "2"), share=0.6, budgeted=True),
        Part("suite", (*_VOICE, *loads, "--parts", "closed", "--clients", "1,4", "--http"), budgeted=True),
    ]


def finish(folder: Path) -> None:
    """Draw the plots and write the tables of a folder of results."""
    plots = [str(path.resolve()) for path in sorted(folder.glob("throughput-*.json"))]
    if plots:
        subprocess.run([sys.executable, "-m", "bench.plot", *plots], cwd=ROOT, check=False)
    records = load(folder)
    text = "\n\n".join((summary(records), stages(records)))
    (folder / "table.md").write_text(text + "\n", encoding="utf-8")
    print("\n" + text)


if __name__ == "__main__":
    main()
