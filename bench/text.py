"""Figures as text: numbers, durations, tables. Needs no package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def number(value: object) -> str:
    """Format a value with three significant digits; None is a dash."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


def duration(seconds: float | None) -> str:
    """Format seconds; below one second as milliseconds."""
    if seconds is None:
        return "–"
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def columns(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format rows with the same keys as an aligned table for the terminal."""
    if not rows:
        return "(nothing)"
    names = list(rows[0])
    lines = [names, *([number(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(names))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def markdown(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Format a markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(number(cell) for cell in line)} |" for line in lines)
