"""Estimate how long a new utterance will wait, from the queued work and the measured speed of the device."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from echo.scheduler.policy import Capacity, Limits, Queued, in_background, urgency

#: Weight of a tick relative to the next one: the average follows a change of load within about fifty ticks.
_DECAY = 0.98


class QueuedWork(Queued, Protocol):
    """A job whose remaining work is known, in row-latents: rows times latents, summed over its steps."""

    @property
    def work(self) -> float:
        """Estimated row-latents still to be computed."""
        ...


@dataclass(frozen=True, slots=True)
class Candidate:
    """An utterance that has not been submitted yet."""

    deadline: float
    order: int
    nbytes: int
    work: float


class Pace:
    """Moving average of the device's time per row-latent, including whatever it does between the steps."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._work = 0.0

    def count(self, seconds: float, work: float = 0.0) -> None:
        """Add a tick that took ``seconds`` and computed ``work`` row-latents (0 for preparing and decoding)."""
        self._seconds = _DECAY * self._seconds + seconds
        self._work = _DECAY * self._work + work

    @property
    def seconds_per_work(self) -> float:
        """Seconds per row-latent; 0 before the first step."""
        return self._seconds / self._work if self._work else 0.0


def work_ahead(
    candidate: QueuedWork, active: Iterable[QueuedWork], waiting: Iterable[QueuedWork], limits: Limits
) -> float:
    """Return the row-latents that are computed before the candidate becomes active.

    Assumes that active jobs advance at the same rate, so that the one with the least work left finishes first. Work in
    the background makes room. The candidate must fit into an empty device.
    """
    active = [job for job in active if not in_background(job)]
    waiting = [job for job in waiting if not in_background(job)]
    capacity = Capacity(limits, active)
    queue = sorted([*waiting, candidate], key=urgency, reverse=True)
    #: (work done per running job when this one ends, tie-break, job)
    running = [(job.work, i, job) for i, job in enumerate(active)]
    heapq.heapify(running)
    each = total = 0.0
    while True:
        while capacity.take(queue[-1]):
            job = queue.pop()
            if job is candidate:
                return total
            heapq.heappush(running, (each + job.work, len(active) + len(queue), job))
        end, _, job = heapq.heappop(running)
        total += (end - each) * (len(running) + 1)
        each = end
        capacity.release(job)
