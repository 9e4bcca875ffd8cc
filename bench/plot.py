"""Plots of the throughput results: first byte and audio rate over the number of clients.

python -m bench.plot                       # a PNG beside every throughput result in bench/results
python -m bench.plot bench/results/throughput-tiny-cpu.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

from bench import RESULTS
from bench.table import caption


def main() -> None:
    """Draw every result that is named, or all."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("files", nargs="*", type=Path, help="results of bench.throughput")
    for path in options.parse_args().files or sorted(RESULTS.glob("throughput-*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["results"].get("closed"):
            draw(record, path.with_suffix(".png"))
            print(path.with_suffix(".png"))


def draw(record: dict[str, Any], path: Path) -> None:
    """Draw the closed loop of a throughput result into a PNG."""
    rows = record["results"]["closed"]
    clients = [row["clients"] for row in rows]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for name in ("p50", "p95", "p99"):
        left.plot(clients, [row[f"ttfb_{name}_s"] for row in rows], marker="o", label=name)
    _axes(left, clients, "time to first byte", "seconds")
    left.set_yscale("log", base=10)
    left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    left.yaxis.set_major_formatter(ScalarFormatter())
    left.yaxis.set_minor_locator(NullLocator())
    right.plot(clients, [row["audio_s_per_s"] for row in rows], marker="o", label="made")
    needed = [n for n in clients if n <= 1.3 * max(row["audio_s_per_s"] for row in rows)] or clients[:1]
    right.plot(needed, needed, linestyle="--", color="gray", label="needed by as many listeners")
    _axes(right, clients, "audio per second, all streams", "seconds of audio per second")
    right.set_ylim(bottom=0)
    figure.suptitle(f"{record['model']}, measured {_via(record)}\n{caption(record)}", fontsize=9)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def _axes(axes: Axes, clients: list[int], title: str, unit: str) -> None:
    axes.set_title(title)
    axes.set_xlabel("clients, each with one stream at a time")
    axes.set_ylabel(unit)
    axes.set_xscale("log", base=2)
    axes.set_xticks(clients, [str(n) for n in clients])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.3)
    axes.legend()


def _via(record: dict[str, Any]) -> str:
    return "at the server's socket" if record["results"]["via"] == "http" else "in the process"


if __name__ == "__main__":
    main()
