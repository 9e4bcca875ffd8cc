"""Plots of the throughput results: first byte and audio rate over the number of clients, and of real-time listeners.

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
    rows, listening = record["results"]["closed"], record["results"].get("open", [])
    clients = [row["clients"] for row in rows]
    panels = 3 if listening else 2
    figure, axes = plt.subplots(1, panels, figsize=(5 * panels, 4.2), layout="constrained")
    left, right = axes[0], axes[1]
    _first_byte(left, rows, clients)
    _axes(left, clients, "time to first byte", "seconds")
    right.plot(clients, [row["audio_s_per_s"] for row in rows], marker="o", label="made")
    needed = [n for n in clients if n <= 1.3 * max(row["audio_s_per_s"] for row in rows)] or clients[:1]
    right.plot(needed, needed, linestyle="--", color="gray", label="needed by as many listeners")
    _axes(right, clients, "audio per second, all streams", "seconds of audio per second")
    right.set_ylim(bottom=0)
    if listening:
        counts = [row["listeners"] for row in listening]
        _first_byte(axes[2], listening, counts)
        dry = [row for row in listening if row["underruns"]]
        axes[2].plot(
            [row["listeners"] for row in dry], [row["ttfb_p95_s"] for row in dry], "x", color="red", label="with stalls"
        )
        _axes(axes[2], counts, "time to first byte, random arrivals", "seconds", "listeners in real time, on average")
    figure.suptitle(f"{record['model']}, measured {_via(record)}\n{caption(record)}", fontsize=9)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def _first_byte(axes: Axes, rows: list[dict[str, Any]], counts: list[float]) -> None:
    for name in ("p50", "p95", "p99"):
        axes.plot(counts, [row[f"ttfb_{name}_s"] for row in rows], marker="o", label=name)
    axes.set_yscale("log", base=10)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_locator(NullLocator())


def _axes(
    axes: Axes, clients: list[float], title: str, unit: str, who: str = "clients, each with one stream at a time"
) -> None:
    axes.set_title(title)
    axes.set_xlabel(who)
    axes.set_ylabel(unit)
    axes.set_xscale("log", base=2)
    axes.set_xticks(clients, [f"{n:g}" for n in clients])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.3)
    axes.legend()


def _via(record: dict[str, Any]) -> str:
    return "at the server's socket" if record["results"]["via"] == "http" else "in the process"


if __name__ == "__main__":
    main()
