"""A page of spectrograms: what the teacher said, and what each checkpoint made of it."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import soundfile
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from echo.types import SAMPLE_RATE
from train.evaluation.heard import Heard
from train.evaluation.heldout import Item

#: Texts on the page; half of them by voices unseen in training.
SHOWN = 4
_TOP_HZ = 8000
_WINDOW = 1024
_TITLE_LENGTH = 60
_COLOURS = 64


def examples(items: Sequence[Item], count: int = SHOWN) -> list[int]:
    """Places of the items to show: from both groups in turn, those of middling length first."""
    middle = float(np.median([len(item.recording.samples) for item in items]))
    order = sorted(range(len(items)), key=lambda i: abs(len(items[i].recording.samples) - middle))
    groups = [[i for i in order if items[i].group == group] for group in ("seen", "unseen")]
    longest = max(len(group) for group in groups)
    return [group[i] for i in range(longest) for group in groups if i < len(group)][:count]


def draw(path: Path, items: Sequence[Item], columns: Mapping[str, Sequence[Heard]]) -> None:
    """Write a PNG: a row for each example, a column for each way it was heard; time to scale within a row."""
    places = examples(items)
    figure = Figure(figsize=(4.2 * len(columns), 2.3 * len(places)), layout="constrained")
    grid = figure.subplots(len(places), len(columns), squeeze=False, sharey=True)
    for row, place in enumerate(places):
        longest = max(len(heard[place].samples) for heard in columns.values()) / SAMPLE_RATE
        for axes, (name, heard) in zip(grid[row], columns.items(), strict=True):
            _spectrogram(axes, heard[place], longest)
            if row == 0:
                axes.set_title(name, fontsize=10)
        text = items[place].recording.text
        short = text if len(text) <= _TITLE_LENGTH else text[: _TITLE_LENGTH - 1] + "…"
        grid[row][0].set_ylabel(f"{items[place].recording.speaker} ({items[place].group})", fontsize=7)
        grid[row][0].set_xlabel(short, fontsize=7, loc="left")
    _save(figure, path, dpi=100)


def draw_rows(path: Path, rows: Mapping[str, Mapping[str, Heard]]) -> None:
    """Write a PNG of sounds by row and column, which every row has alike; time to scale within a row."""
    titles = list(next(iter(rows.values())))
    figure = Figure(figsize=(4.2 * len(titles), 1.6 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(titles), squeeze=False, sharey=True)
    for axes_of_row, (name, columns) in zip(grid, rows.items(), strict=True):
        longest = max(len(heard.samples) for heard in columns.values()) / SAMPLE_RATE
        for axes, heard in zip(axes_of_row, columns.values(), strict=True):
            _spectrogram(axes, heard, longest)
        axes_of_row[0].set_ylabel(name, fontsize=7)
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=10)
    _save(figure, path, dpi=80)


def save_sounds(folder: Path, items: Sequence[Item], columns: Mapping[str, Sequence[Heard]]) -> None:
    """Write what the page shows as FLAC files, to be listened to."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, place in enumerate(examples(items), 1):
        for name, heard in columns.items():
            stem = f"{number}-{name}".replace("/", "-")
            soundfile.write(folder / f"{stem}.flac", np.clip(heard[place].samples, -1, 1), SAMPLE_RATE)


def _save(figure: Figure, path: Path, *, dpi: int) -> None:
    """Write a PNG of few colours, which spectrograms need no more of: a third of the size."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=dpi)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.open(drawn).convert("RGB").quantize(_COLOURS).save(path, optimize=True)


def _spectrogram(axes: Axes, heard: Heard, seconds: float) -> None:
    samples = np.pad(heard.samples, (0, _WINDOW))
    with np.errstate(divide="ignore"):  # digital silence
        axes.specgram(samples, NFFT=_WINDOW, Fs=SAMPLE_RATE, noverlap=_WINDOW * 3 // 4, vmin=-130, vmax=-40)
    for border in heard.borders:
        axes.axvline(border / SAMPLE_RATE, color="white", linewidth=0.6, linestyle=":")
    axes.set(ylim=(0, _TOP_HZ), xlim=(0, seconds))
    axes.tick_params(labelsize=6)
