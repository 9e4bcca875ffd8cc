"""How long an arrival will wait until it is worked on: foretold from the work at hand and the device's pace."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from echo.scheduler.policy import Limits, Room, Waiting, urgency

#: What a tick weighs beside the next one: the pace follows a change of load within about fifty ticks.
_MEMORY = 0.98


class Laden(Waiting, Protocol):
    """A job whose work is known; in row-latents: rows times latents, summed over its steps."""

    @property
    def work(self) -> float:
        """Row-latents that are probably still to be done."""
        ...


@dataclass(frozen=True, slots=True)
class Newcomer:
    """An utterance that has not been handed in yet."""

    due: float
    order: int
    nbytes: int
    work: float


class Pace:
    """A running measure of the device's time per row-latent, whatever else it does between the steps included."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._work = 0.0

    def count(self, seconds: float, work: float = 0.0) -> None:
        """Note a tick that took ``seconds`` and did ``work`` row-latents (none: it prepared or decoded)."""
        self._seconds = _MEMORY * self._seconds + seconds
        self._work = _MEMORY * self._work + work

    @property
    def seconds_per_work(self) -> float:
        """Seconds per row-latent; 0 before the first step."""
        return self._seconds / self._work if self._work else 0.0


def work_ahead(newcomer: Laden, active: Iterable[Laden], waiting: Iterable[Laden], limits: Limits) -> float:
    """Return the row-latents that are done before there is room for the newcomer.

    Active jobs are taken to advance evenly, so that the one with the least work left is the first to leave. The
    newcomer must fit into an empty device.
    """
    active = list(active)
    room = Room(limits, active)
    queue = sorted([*waiting, newcomer], key=urgency, reverse=True)
    #: (work of every running job at which this one ends, tie-break, job)
    running = [(job.work, i, job) for i, job in enumerate(active)]
    heapq.heapify(running)
    each = total = 0.0
    while True:
        while room.admit(queue[-1]):
            job = queue.pop()
            if job is newcomer:
                return total
            heapq.heappush(running, (each + job.work, len(active) + len(queue), job))
        end, _, job = heapq.heappop(running)
        total += (end - each) * (len(running) + 1)
        each = end
        room.leave(job)
