"""All figures of the embedded model on a CPU in one run of about six minutes: the results that the READMEs quote.

    python -m bench.cpu_table           # writes bench/results, the plots and the tables of both READMEs
    python -m bench.cpu_table --out /tmp/figures --no-tables

Nothing else should run on the machine meanwhile: ``load_1min`` in the JSON is the load average at the start.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from bench import RESULTS, ROOT
from bench.runner import Part, run_all


def main() -> None:
    """Run the parts, draw, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="after which a part is cut short")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--no-tables", action="store_true", help="leave the READMEs as they are")
    given = parser.parse_args()
    failed = run_all(parts(), ["--model", "tiny", "--device", "cpu"], given.out, given.minutes)
    plots = [str(path.resolve()) for path in sorted(given.out.glob("throughput-*.json"))]
    subprocess.run([sys.executable, "-m", "bench.plot", *plots], cwd=ROOT, check=True)
    if not given.no_tables:
        write = ["bench.table", "--results", str(given.out.resolve()), "--write", "README.md", "bench/README.md"]
        subprocess.run([sys.executable, "-m", *write], cwd=ROOT, check=True)
    if failed:
        sys.exit(f"failed or out of time: {', '.join(failed)}")


def parts() -> list[Part]:
    """What is run, in this order."""
    loads = ("--seconds", "5", "--hear-out", "12", "--hang-ups", "3", "--requests", "5")
    turns = ("--rounds", "5", "--compare-requests", "16")
    return [
        Part("suite", (*loads, *turns, "--parts", "compare,lockstep,hangup,closed,open", "--http")),
        Part("suite", (*loads, "--parts", "hangup,closed", "--clients", "1,8")),
        Part("profile", ("--streams", "1,2,4,8", "--seconds", "0.15")),
        Part("overhead"),
        Part("parity"),
        Part("decode"),
    ]


if __name__ == "__main__":
    main()
