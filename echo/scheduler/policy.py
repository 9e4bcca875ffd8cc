"""Which work the device does next: pure decisions on plain values. No tensors, no clock of its own.

Earliest deadline first. Before its first audio, a request's deadline is ``first_sound_s`` after its arrival; from then
on, it is the buffer underrun: the time at which the audio made so far has been played. So a first sound goes before
streams that have audio in reserve, but not before one that is close to an underrun. A deadline never moves back, so no
job starves. Only work in the background may: it has no deadline (infinity), gets the device when no other job needs it,
and loses its place when another job has none.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Generic, Protocol, TypeVar

Q = TypeVar("Q", bound="Queued")
J = TypeVar("J", bound="Job")


class Phase(Enum):
    """What a job needs next."""

    PREPARE = auto()  # encode text or prefix, start the block
    STEP = auto()
    DECODE = auto()
    AWAIT_VAD = auto()  # waits for the voice activity detector, which needs no device


class Queued(Protocol):
    """What the policy reads of a job that is not active yet; times in seconds of the caller's clock."""

    @property
    def deadline(self) -> float:
        """When the listener needs the next audio."""
        ...

    @property
    def order(self) -> int:
        """Position in the order of arrival; breaks ties."""
        ...

    @property
    def nbytes(self) -> int:
        """Upper bound of the device memory that the job needs."""
        ...


class Job(Queued, Protocol):
    """What the policy reads of an active job."""

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
        """Seconds of audio that the consumer has not taken yet."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How many jobs share the device, and how far a job may run ahead of a consumer who does not read."""

    #: Active jobs; 1 means one utterance after another.
    max_jobs: int
    #: Device memory of all active jobs.
    max_bytes: float = math.inf
    #: Rows of one forward.
    max_rows: int = 64
    #: Row-latents of one forward. Beyond this the device is saturated, and a larger batch only delays its first job.
    max_row_latents: int = 2048
    #: Whether blocks of different sizes share a forward. That raises the throughput, and delays first sounds where
    #: every latent costs the same time, as on a CPU.
    mix_sizes: bool = False
    #: Latents decoded in one call, over all streams: a few milliseconds of a large GPU.
    max_decode: int = 256
    #: Unread seconds beyond which a job is skipped.
    max_unread_s: float = 60.0
    #: Deadline of the first audio, in seconds after arrival. It comes sooner unless another deadline is earlier. With a
    #: smaller value, a burst of arrivals causes buffer underruns in streams that have little audio in reserve.
    first_sound_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Work(Generic[J]):
    """One tick: what to do, and for which jobs, the most urgent first."""

    phase: Phase
    jobs: tuple[J, ...]


def urgency(job: Queued) -> tuple[float, int]:
    """Sort key; the most urgent job has the smallest."""
    return (job.deadline, job.order)


def in_background(job: Queued) -> bool:
    """Whether nobody waits for what the job makes."""
    return job.deadline == math.inf


class Capacity:
    """Job slots and memory that the active jobs leave free."""

    def __init__(self, limits: Limits, active: Iterable[Queued] = ()) -> None:
        self._slots = limits.max_jobs
        self._bytes = limits.max_bytes
        for job in active:
            self._subtract(job)

    def take(self, job: Queued) -> bool:
        """Reserve what the job needs; False, with nothing reserved, when it does not fit."""
        fits = self._slots > 0 and job.nbytes <= self._bytes
        if fits:
            self._subtract(job)
        return fits

    def release(self, job: Queued) -> None:
        """Free what a job has reserved."""
        self._slots += 1
        self._bytes += job.nbytes

    def _subtract(self, job: Queued) -> None:
        self._slots -= 1
        self._bytes -= job.nbytes


def activate(waiting: Iterable[Q], active: Iterable[Queued], limits: Limits) -> list[Q]:
    """Return which waiting jobs become active, the most urgent first.

    No job overtakes one that does not fit yet, or a large job might wait forever.
    """
    capacity = Capacity(limits, active)
    return list(itertools.takewhile(capacity.take, sorted(waiting, key=urgency)))


def preempt(waiting: Iterable[Queued], active: Iterable[Q]) -> list[Q]:
    """Return which active jobs have to make room: those in the background, while another job waits for a place."""
    if all(in_background(job) for job in waiting):
        return []
    return [job for job in active if in_background(job)]


def next_work(jobs: Sequence[J], limits: Limits, *, after: Phase | None = None) -> Work[J] | None:
    """Choose the next tick among the active jobs; None when none of them needs the device now.

    The most urgent job decides the phase. Other jobs in that phase, and of a compatible size, join it in order of
    urgency until the batch is full. Preparing comes first, so that an arrival joins the next step, but only every other
    tick (``after`` is the previous tick's phase), so that a burst of arrivals does not stop the other jobs.
    """
    ready = sorted(
        (job for job in jobs if job.phase is not Phase.AWAIT_VAD and job.unread_s <= limits.max_unread_s), key=urgency
    )
    if not ready:
        return None
    if not in_background(ready[0]):
        ready = [job for job in ready if not in_background(job)]
    preparing = [job for job in ready if job.phase is Phase.PREPARE]
    others = [job for job in ready if job.phase is not Phase.PREPARE]
    first = preparing[0] if preparing and not (others and after is Phase.PREPARE) else others[0]
    same_phase = [job for job in ready if job is not first and job.phase is first.phase]
    same_size = [job for job in same_phase if job.size == first.size]
    match first.phase:
        case Phase.STEP:
            return Work(Phase.STEP, _batch(first, same_phase if limits.mix_sizes else same_size, limits))
        case Phase.DECODE:
            streams = max(1, limits.max_decode // max(1, first.size))
            return Work(Phase.DECODE, tuple([first, *same_size][:streams]))
        case _:
            return Work(first.phase, (first,))


def _batch(first: J, others: Sequence[J], limits: Limits) -> tuple[J, ...]:
    batch, rows, row_latents = [first], first.rows, first.rows * first.size
    for job in others:
        rows += job.rows
        row_latents += job.rows * job.size
        if rows > limits.max_rows or row_latents > limits.max_row_latents:
            break
        batch.append(job)
    return tuple(batch)
