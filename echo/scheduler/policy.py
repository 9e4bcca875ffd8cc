"""Which work the device does next: pure decisions on plain values. No tensors, no clock of its own.

The order is earliest due first. A listener who has heard nothing is due a little after arrival, one who is being
served when the audio made so far has been played. So first sounds overtake everybody who is safely ahead, yet not a
stream that is about to run dry, and a due time never moves back, so nobody starves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol


class Phase(Enum):
    """What a job needs next."""

    PREPARE = auto()  # encode text or prefix, start the block
    STEP = auto()
    DECODE = auto()
    JUDGE = auto()  # waits for a verdict on its silence; nothing for the device to do


class Job(Protocol):
    """What the policy looks at; times in seconds of the caller's clock."""

    @property
    def phase(self) -> Phase:
        """What the job needs next."""
        ...

    @property
    def due(self) -> float:
        """When its listener is owed audio."""
        ...

    @property
    def order(self) -> int:
        """Position in the order of arrival; breaks ties."""
        ...

    @property
    def size(self) -> int:
        """Latents of the current block (STEP) or to decode (DECODE); only equal sizes share a batch."""
        ...

    @property
    def rows(self) -> int:
        """Rows that the next step adds to a batch."""
        ...

    @property
    def unread_s(self) -> float:
        """Seconds of audio made that nobody has taken yet."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much shares a tick, and how far a job may run ahead of a reader who does not read."""

    #: Jobs that are worked on at all; 1 is lock-step: one utterance after another.
    max_jobs: int
    #: Rows of one forward.
    max_rows: int = 64
    #: Row-latents of one forward beyond which another job only waits with the first (the device is full).
    max_tokens: int = 8192
    #: Streams decoded in one call.
    max_decode: int = 16
    #: Unread seconds beyond which a job is skipped.
    max_unread_s: float = 60.0
    #: Seconds after arrival at which the first sound is due.
    first_sound_s: float = 0.1


@dataclass(frozen=True, slots=True)
class Work:
    """One tick: what to do, and for whom, the most urgent first."""

    phase: Phase
    jobs: tuple[Job, ...]


def urgency(job: Job) -> tuple[float, int]:
    """Sort key: the smaller, the sooner."""
    return (job.due, job.order)


def activate(waiting: Iterable[Job], active: int, limits: Limits) -> list[Job]:
    """Return which waiting jobs become active, the most urgent first."""
    return sorted(waiting, key=urgency)[: max(0, limits.max_jobs - active)]


def next_work(jobs: Sequence[Job], limits: Limits, *, after: Phase | None = None) -> Work | None:
    """Choose the next tick among the active jobs; None when none of them needs the device now.

    The most urgent job decides what is done; others in the same phase and of the same size join it, in order of
    urgency, as far as the batch has room. Preparing comes first, so that an arrival joins the next step, but only
    every other tick (``after`` is the previous tick's phase), so that a burst of arrivals halts nobody.
    """
    ready = sorted(
        (job for job in jobs if job.phase is not Phase.JUDGE and job.unread_s <= limits.max_unread_s), key=urgency
    )
    if not ready:
        return None
    preparing = [job for job in ready if job.phase is Phase.PREPARE]
    others = [job for job in ready if job.phase is not Phase.PREPARE]
    first = preparing[0] if preparing and not (others and after is Phase.PREPARE) else others[0]
    mates = [job for job in ready if job is not first and job.phase is first.phase and job.size == first.size]
    match first.phase:
        case Phase.STEP:
            return Work(Phase.STEP, _fill(first, mates, limits))
        case Phase.DECODE:
            return Work(Phase.DECODE, tuple([first, *mates][: limits.max_decode]))
        case _:
            return Work(first.phase, (first,))


def _fill(first: Job, mates: Sequence[Job], limits: Limits) -> tuple[Job, ...]:
    batch, rows = [first], first.rows
    for job in mates:
        rows += job.rows
        if rows > limits.max_rows or rows * first.size > limits.max_tokens:
            break
        batch.append(job)
    return tuple(batch)
