"""Results as lines of JSON, each on the disk before the next is measured. Needs no package.

Several processes append to one file: whole lines, one process at a time.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from bench.goals import Goal


class Status(StrEnum):
    """How a stage has ended, or that it has not."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    #: It took longer than it may, or ended its process.
    STOPPED = "stopped"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured value, the least that the device's ceilings allow (same unit), and what it should be."""

    name: str
    value: float
    unit: str = ""
    floor: float | None = None
    sign: str | None = None
    limit: float | None = None

    @property
    def goal(self) -> Goal | None:
        """What it should be; None where nothing is asked."""
        if self.sign is None or self.limit is None:
            return None
        return Goal(self.name, self.sign, self.limit, f" {self.unit}" if self.unit else "")


@dataclass(slots=True)
class Outcome:
    """What a file tells about a stage."""

    status: Status = Status.RUNNING
    seconds: float = 0.0
    deadline: float = math.inf
    figures: list[Figure] = field(default_factory=list)
    rows: list[Mapping[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    error: str = ""


class Log:
    """Writes the lines of one stage."""

    def __init__(self, path: Path, stage: str) -> None:
        self.stage = stage
        self._path = path
        self._began = time.monotonic()
        self._deadline = math.inf
        #: Names of the bounded values that are out of bounds.
        self.broken: list[str] = []

    @property
    def time_left(self) -> float:
        """Seconds until the stage has to end."""
        return self._deadline - time.monotonic()

    def begin(self, deadline: float) -> None:
        """The stage begins now and has to end by then (``time.monotonic()``)."""
        self._deadline = deadline
        self._write("begin", deadline=deadline)

    def figure(self, name: str, value: float, unit: str = "", *, floor: float | None = None) -> None:
        """A value for the table."""
        self._write("figure", name=name, value=value, unit=unit, floor=floor)

    def bounded(self, name: str, value: float, limit: float, unit: str = "", *, sign: str = "≤") -> None:
        """A value for the table that has to keep a bound, or the stage has failed."""
        if not Goal(name, sign, limit).met(value):
            self.broken.append(name)
        self._write("figure", name=name, value=value, unit=unit, sign=sign, limit=limit)

    def goal(self, goal: Goal, value: float, *, floor: float | None = None) -> None:
        """A value for which there is a goal."""
        unit = goal.unit.strip()
        self._write("figure", name=goal.name, value=value, unit=unit, floor=floor, sign=goal.sign, limit=goal.limit)

    def row(self, **values: Any) -> None:
        """Details that are not in the table."""
        self._write("row", values=values)

    def note(self, text: str) -> None:
        """A line of text for the table."""
        self._write("note", text=text)

    def end(self, status: Status, error: str = "") -> None:
        """The stage has ended."""
        self._write("end", status=status, seconds=round(time.monotonic() - self._began, 2), error=error)

    def _write(self, event: str, **values: Any) -> None:
        line = json.dumps({"stage": self.stage, "event": event, **values}, ensure_ascii=False)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
            file.flush()
            os.fsync(file.fileno())


def read(path: Path) -> dict[str, Outcome]:
    """What a file tells so far, by stage in the order in which they began."""
    found: dict[str, Outcome] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            event = json.loads(line)
        except ValueError:  # cut off where its process was ended
            continue
        outcome = found.setdefault(event.pop("stage"), Outcome())
        match event.pop("event"):
            case "begin":
                outcome.deadline = event["deadline"]
            case "figure":
                outcome.figures.append(Figure(**event))
            case "row":
                outcome.rows.append(event["values"])
            case "note":
                outcome.notes.append(event["text"])
            case "end":
                outcome.status, outcome.seconds = Status(event["status"]), event["seconds"]
                outcome.error = event["error"]
    return found
