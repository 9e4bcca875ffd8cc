"""How long a stage trains, how far it has come, and the bar that shows it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

#: Seconds; a step that took longer was paused, and is not counted beyond this.
_LONGEST_STEP = 20.0
_BAR = "{desc} {percentage:5.1f}%|{bar}| {elapsed}<{remaining}{postfix}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Minutes of training, or a number of steps where the result must not depend on the machine's speed.

    Both count over all runs of a stage: a run that is resumed has what is left. Raising the budget of a finished stage
    continues it, with the learning rate that belongs to that progress.
    """

    minutes: float | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.steps is None):
            raise ValueError("a budget is either minutes or steps")

    def progress(self, *, seconds: float, step: int) -> float:
        """Return how much of the budget is used, from 0 to 1."""
        used = seconds / 60 / max(self.minutes, 1e-9) if self.minutes is not None else step / max(self.steps or 0, 1)
        return min(1.0, used)


class Stopwatch:
    """Seconds of training over all runs: without pauses of the process, and without saving and measuring."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._last = time.monotonic()

    def lap(self) -> float:
        """Count the step that has just ended, and return all seconds so far."""
        now = time.monotonic()
        self.seconds += min(now - self._last, _LONGEST_STEP)
        self._last = now
        return self.seconds

    def skip(self) -> None:
        """Leave out the time since the last step."""
        self._last = time.monotonic()


def progress_bar(what: str, progress: float, *, show: bool) -> Any:
    """A bar from 0 to 1 that stands at ``progress``."""
    return tqdm(total=1.0, initial=progress, desc=what, disable=not show, bar_format=_BAR)
