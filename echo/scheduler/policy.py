"""Which work the device does next: pure decisions on plain values. No tensors, no clock of its own.

The order is earliest due first. A listener who has heard nothing is due a second after arrival, one who is being served
when the audio made so far has been played. So first sounds overtake everybody who is safely ahead, yet not a stream
that is about to run dry, and a due time never moves back, so nobody starves.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Generic, Protocol, TypeVar

W = TypeVar("W", bound="Waiting")
J = TypeVar("J", bound="Job")


class Phase(Enum):
    """What a job needs next."""

    PREPARE = auto()  # encode text or prefix, start the block
    STEP = auto()
    DECODE = auto()
    JUDGE = auto()  # waits for a verdict on its silence; nothing for the device to do


class Waiting(Protocol):
    """What the policy looks at in a job that is not worked on yet; times in seconds of the caller's clock."""

    @property
    def due(self) -> float:
        """When its listener is owed audio."""
        ...

    @property
    def order(self) -> int:
        """Position in the order of arrival; breaks ties."""
        ...

    @property
    def nbytes(self) -> int:
        """Device memory that the job may come to need."""
        ...


class Job(Waiting, Protocol):
    """What the policy looks at in a job that is worked on."""

    @property
    def phase(self) -> Phase:
        """What the job needs next."""
        ...

    @property
    def size(self) -> int:
        """Latents of the current block (STEP) or to decode (DECODE); only equal sizes are decoded together."""
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
    #: Device memory of all jobs that are worked on.
    max_bytes: float = math.inf
    #: Rows of one forward.
    max_rows: int = 64
    #: Row-latents of one forward beyond which another job only waits with the first (the device is full).
    max_tokens: int = 2048
    #: Whether blocks of several sizes share a forward. That serves more listeners, and a first sound comes later where
    #: every latent costs the same time, as on a CPU.
    mix_sizes: bool = False
    #: Latents decoded in one call, of all streams together: a few milliseconds of a large GPU.
    max_decode: int = 256
    #: Unread seconds beyond which a job is skipped.
    max_unread_s: float = 60.0
    #: Seconds after arrival at which the first sound is due. It comes sooner where nobody else is due before; with less
    #: than this, a burst of arrivals makes those run dry who are almost out of audio.
    first_sound_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Work(Generic[J]):
    """One tick: what to do, and for whom, the most urgent first."""

    phase: Phase
    jobs: tuple[J, ...]


def urgency(job: Waiting) -> tuple[float, int]:
    """Sort key: the smaller, the sooner."""
    return (job.due, job.order)


class Room:
    """What the jobs that are worked on leave free: places and memory."""

    def __init__(self, limits: Limits, active: Iterable[Waiting] = ()) -> None:
        self._places = limits.max_jobs
        self._bytes = limits.max_bytes
        for job in active:
            self._take(job)

    def admit(self, job: Waiting) -> bool:
        """Take the job in if there is room for it."""
        fits = self._places > 0 and job.nbytes <= self._bytes
        if fits:
            self._take(job)
        return fits

    def leave(self, job: Waiting) -> None:
        """Free what an admitted job took."""
        self._places += 1
        self._bytes += job.nbytes

    def _take(self, job: Waiting) -> None:
        self._places -= 1
        self._bytes -= job.nbytes


def activate(waiting: Iterable[W], active: Iterable[Waiting], limits: Limits) -> list[W]:
    """Return which waiting jobs become active, the most urgent first.

    Nobody overtakes a job for which there is no room yet, or a large one might wait forever.
    """
    room = Room(limits, active)
    return list(itertools.takewhile(room.admit, sorted(waiting, key=urgency)))


def next_work(jobs: Sequence[J], limits: Limits, *, after: Phase | None = None) -> Work[J] | None:
    """Choose the next tick among the active jobs; None when none of them needs the device now.

    The most urgent job decides what is done; others in the same phase and of a size that goes with it join it, in order
    of urgency, as far as the batch has room. Preparing comes first, so that an arrival joins the next step, but only
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
    mates = [job for job in ready if job is not first and job.phase is first.phase]
    alike = [job for job in mates if job.size == first.size]
    match first.phase:
        case Phase.STEP:
            return Work(Phase.STEP, _fill(first, mates if limits.mix_sizes else alike, limits))
        case Phase.DECODE:
            streams = max(1, limits.max_decode // max(1, first.size))
            return Work(Phase.DECODE, tuple([first, *alike][:streams]))
        case _:
            return Work(first.phase, (first,))


def _fill(first: J, mates: Sequence[J], limits: Limits) -> tuple[J, ...]:
    batch, rows, tokens = [first], first.rows, first.rows * first.size
    for job in mates:
        rows += job.rows
        tokens += job.rows * job.size
        if rows > limits.max_rows or tokens > limits.max_tokens:
            break
        batch.append(job)
    return tuple(batch)
