"""Curves as JSON lines, and pictures of them and of spectrograms."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def append_curve(path: Path, row: Mapping[str, Any]) -> None:
    """Add one line, which has at least ``step``."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def read_curve(path: Path) -> list[dict[str, Any]]:
    """Read all complete lines; none when there is no file."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def cut_curve(path: Path, step: int) -> None:
    """Drop what a run wrote after the checkpoint that it is resumed from."""
    rows = read_curve(path)
    if kept := [row for row in rows if row["step"] <= step]:
        path.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    else:
        path.unlink(missing_ok=True)


def plot_curves(source: Path, target: Path) -> None:
    """Draw every column of a curves file over the steps, one small picture each; ValueError for an empty file."""
    from matplotlib.figure import Figure

    rows = read_curve(source)
    names = list(dict.fromkeys(name for row in rows for name in row if name not in {"step", "seconds"}))
    if not names:
        raise ValueError(f"{source} holds no curves")
    columns = 3
    height = -(-len(names) // columns)
    figure = Figure(figsize=(5 * columns, 3 * height), layout="constrained")
    for place, name in enumerate(names, start=1):
        axes = figure.add_subplot(height, columns, place)
        points = [(row["step"], row[name]) for row in rows if name in row]
        axes.plot(*zip(*points, strict=True), linewidth=0.8)
        axes.set_title(name, fontsize=10)
        axes.grid(alpha=0.3)
    figure.suptitle(f"{rows[-1]['step']} steps, {rows[-1].get('seconds', 0) / 60:.0f} minutes", fontsize=11)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=80)


def plot_spectrograms(clips: Sequence[tuple[str, NDArray[np.float32], int]], target: Path) -> None:
    """Draw spectrograms below one another; a clip is (title, mono samples, samples per second)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 2.2 * len(clips)), layout="constrained")
    for place, (title, samples, rate) in enumerate(clips, start=1):
        axes = figure.add_subplot(len(clips), 1, place)
        window = rate // 50
        axes.specgram(
            samples + 1e-6 * np.cos(np.arange(len(samples))),  # no logarithm of zero in digital silence
            NFFT=window,
            noverlap=3 * window // 4,
            Fs=rate,
            vmin=-120,
            cmap="magma",
        )
        axes.set_ylim(0, min(rate / 2, 10_000))
        axes.set_title(title, fontsize=9)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=80)
