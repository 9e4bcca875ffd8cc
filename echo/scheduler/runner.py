"""JobRunner: executes the work that the policy chooses, tick by tick. The device thread drives it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

from echo.errors import DeviceStopped, OutOfMemory, Preempted
from echo.model.base import BlockModel, DecodeState, Latents
from echo.scheduler.cores import CoreThreads
from echo.scheduler.headroom import Headroom
from echo.scheduler.job import BlockAttempt, BlockJob
from echo.scheduler.policy import Limits, Phase, Work, activate, next_work, preempt
from echo.types import Audio
from echo.vad import SilenceGate

log = logging.getLogger(__name__)

T = TypeVar("T")


class DeviceLost(Exception):
    """The device answers no more: every further piece of work would fail."""


_NO_AUDIO: Audio = np.zeros(0, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class InFlight:
    """Work that runs on another thread.

    jobs         the jobs it is for
    apply        takes its result, on the device thread
    since        when it was started
    on_core      False for work that only waits for a copy from the device
    row_latents  of the step; 0 for other work
    """

    jobs: Sequence[BlockJob]
    result: Future[Any]
    apply: Callable[[Any], None]
    since: float
    on_core: bool
    row_latents: int


class JobRunner:
    """Executes jobs tick by tick.

    With ``cores``, a tick starts work on every idle core, and a later tick applies the results. Without, a tick does
    one piece of work on the device.

    ``wake`` is called from another thread when started work has completed. All methods are for one thread. ``active``
    and ``waiting`` are replaced, never changed in place, so another thread may read them.
    """

    def __init__(
        self,
        model: BlockModel,
        *,
        sample_rate: int,
        limits: Limits,
        gate: SilenceGate | None = None,
        workers: Executor | None = None,
        cores: CoreThreads | None = None,
        wake: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model = model
        self._rate = sample_rate
        self._headroom = Headroom(limits)
        self._gate = gate
        self._workers = workers
        self._cores = cores
        self._in_flight: list[InFlight] = []
        self._wake = wake
        self._clock = clock
        self._last: Phase | None = None
        #: How often the device has had no memory for a piece of work.
        self.out_of_memory = 0
        self.waiting: tuple[BlockJob, ...] = ()
        self.active: tuple[BlockJob, ...] = ()

    def update(self, arrivals: Iterable[BlockJob] = ()) -> None:
        """Add arrivals, drop jobs that have ended, and activate those that fit."""
        self._headroom.rise(self._clock())
        self.active = tuple(job for job in self.active if not _has_ended(job))
        self.waiting = tuple(job for job in (*self.waiting, *arrivals) if not _has_ended(job))
        if ready := activate(self.waiting, self.active, self.limits):
            self.waiting = tuple(job for job in self.waiting if job not in ready)
            self.active = (*self.active, *ready)
            for job in ready:
                job.stream.stats.queue_s = self._clock() - job.arrived
        for job in preempt(self.waiting, self.active):
            job.stream.finish(Preempted("Others need the device."))

    @property
    def limits(self) -> Limits:
        """The limits that hold now: lower ones for a while after the device has run out of memory."""
        return self._headroom.limits

    @property
    def busy_since(self) -> float | None:
        """When the oldest work in flight was started; None when there is none."""
        return min((work.since for work in self._in_flight), default=None)

    def has_work(self) -> bool:
        """Whether ``update`` or ``tick`` would do anything now."""
        return (
            any(job.stream.cancelled or job.stream.finished for job in (*self.active, *self.waiting))
            or any(job.vad_result is not None and job.vad_result.done() for job in self.active)
            or any(work.result.done() for work in self._in_flight)
            or (self._idle_cores > 0 and next_work(self._idle_jobs(), self.limits) is not None)
            or bool(activate(self.waiting, self.active, self.limits))
        )

    def tick(self) -> int | None:
        """Do or start the next work; returns the row-latents of completed steps, None when there was nothing to do.

        Raises DeviceLost.
        """
        for job in self.active:
            if job.vad_result is not None and job.vad_result.done():
                self._guard([job], partial(self._accept_or_retry, job))
        completed = [work for work in self._in_flight if work.result.done()]
        self._in_flight = [work for work in self._in_flight if work not in completed]
        taken = sum(self._finish(work) for work in completed)
        started = False
        while self._idle_cores > 0 and (work := next_work(self._idle_jobs(), self.limits, after=self._last)):
            self._last = work.phase
            started = True
            taken += self._guard(work.jobs, partial(self._do, work)) or 0
            if self._cores is None or work.phase is Phase.PREPARE:
                break
        return taken if started or completed else None

    def fail_all(self, error: Exception) -> None:
        """Fail every job, and wait for the work in flight."""
        for job in (*self.active, *self.waiting):
            job.stream.finish(error)
        self.update()
        wait([work.result for work in self._in_flight])
        self._in_flight = []

    @property
    def _idle_cores(self) -> int:
        count = self._cores.count if self._cores is not None else 1
        return count - sum(work.on_core for work in self._in_flight)

    def _idle_jobs(self) -> list[BlockJob]:
        """The active jobs without work in flight that have not failed since ``update``."""
        busy = {id(job) for work in self._in_flight for job in work.jobs}
        return [job for job in self.active if id(job) not in busy and not job.stream.finished]

    def _do(self, work: Work[BlockJob]) -> int:
        """Do or start a piece of work; returns the row-latents of its step if that has completed."""
        match work.phase:
            case Phase.STEP:
                return self._step(self._share(work.jobs))
            case Phase.DECODE:
                self._decode(self._share(work.jobs))
            case _:
                for job in work.jobs:
                    job.prepare(self._model)
        return 0

    def _share(self, jobs: Sequence[BlockJob]) -> Sequence[BlockJob]:
        """The part of a batch for one core, so that the other idle cores get some of it too."""
        return jobs[: -(-len(jobs) // self._idle_cores)] if self._cores is not None else jobs

    def _step(self, jobs: Sequence[BlockJob]) -> int:
        amounts = [job.row_latents for job in jobs]
        samplers = [job.sampler for job in jobs]

        def step() -> None:
            self._model.step(samplers)

        def apply(_: object) -> None:
            for job, amount in zip(jobs, amounts, strict=True):
                self._guard([job], partial(job.step_taken, self._model, amount))

        if self._cores is not None:
            self._start(jobs, self._cores.submit(step), apply, row_latents=sum(amounts))
            return 0

        step()
        apply(None)
        return sum(amounts)

    def _decode(self, jobs: Sequence[BlockJob]) -> None:
        states, pending = [job.decode_state for job in jobs], [job.pending for job in jobs]

        def apply(results: Sequence[tuple[Audio, DecodeState]]) -> None:
            for job, (samples, state) in zip(jobs, results, strict=True):
                if not _has_ended(job):
                    self._guard([job], partial(self._decoded, job, samples, state))

        if not len(pending[0]):
            apply([(_NO_AUDIO, None)] * len(jobs))
        elif self._cores is not None:
            self._start(jobs, self._cores.submit(lambda: self._model.decode(states, pending)()), apply)
        else:
            self._decode_on_device(jobs, states, pending, apply)

    def _decoded(self, job: BlockJob, samples: Audio, state: DecodeState | None) -> None:
        attempt = job.decoded(samples, state)
        if attempt is None:
            return
        if self._gate is None or self._workers is None:
            self._deliver(job, attempt)
        else:
            self._start_vad(job, attempt, self._gate, self._workers)

    def _decode_on_device(
        self,
        jobs: Sequence[BlockJob],
        states: Sequence[DecodeState],
        pending: Sequence[Latents],
        apply: Callable[[Sequence[tuple[Audio, DecodeState]]], None],
    ) -> None:
        fetch = self._model.decode(states, pending)
        if self._model.decodes_asynchronously and self._workers is not None:
            self._start(jobs, self._workers.submit(fetch), apply, on_core=False)
        else:
            apply(fetch())

    def _start(
        self,
        jobs: Sequence[BlockJob],
        result: Future[T],
        apply: Callable[[T], None],
        *,
        on_core: bool = True,
        row_latents: int = 0,
    ) -> None:
        self._in_flight.append(InFlight(jobs, result, apply, self._clock(), on_core, row_latents))
        result.add_done_callback(lambda _: self._wake())

    def _finish(self, work: InFlight) -> int:
        """Apply completed work; returns the row-latents of its step."""
        error = work.result.exception()  # not raised: its traceback would hold this frame, and so the work
        if error is None:
            self._guard(work.jobs, lambda: work.apply(work.result.result()))
        else:
            self._fail(work.jobs, error)
        return work.row_latents if error is None else 0

    def _guard(self, jobs: Sequence[BlockJob], do: Callable[[], T]) -> T | None:
        """Call ``do``; when it fails, its own jobs fail and no others, and None is returned.

        Of several jobs none fails where the device had no memory for them: a later tick tries again with fewer. Raises
        DeviceLost where nothing else can succeed any more.
        """
        try:
            return do()
        except DeviceLost:
            raise
        except Exception as error:
            self._fail(jobs, error)
            return None

    def _fail(self, jobs: Sequence[BlockJob], error: BaseException) -> None:
        lost = full = False
        if isinstance(error, Exception):
            lost = self._model.lost_with(error)
            full = not lost and self._model.out_of_memory(error)
        if full:
            self.out_of_memory += 1
            self._headroom.lower(jobs, len(self.active), self._clock())
            if len(jobs) > 1:
                log.warning("the device had no memory for %d utterances at once, fewer are tried next", len(jobs))
                error.with_traceback(None)
                return
        _fail(jobs, error, DeviceStopped() if lost else OutOfMemory() if full else error)
        if lost:
            raise DeviceLost

    def _start_vad(self, job: BlockJob, attempt: BlockAttempt, gate: SilenceGate, workers: Executor) -> None:
        job.vad_result = workers.submit(
            gate.longest_silence_ms,
            attempt.samples,
            self._rate,
            is_last=attempt.is_last,
            needs_speech=job.needs_speech,
        )
        job.vad_result.add_done_callback(lambda _: self._wake())

    def _accept_or_retry(self, job: BlockJob) -> None:
        assert self._gate is not None
        attempt = job.vad_finished()
        if attempt.silence_ms >= self._gate.threshold_ms and job.attempt < self._gate.max_rerolls:
            job.retry()
        else:
            self._deliver(job, job.best)

    def _deliver(self, job: BlockJob, attempt: BlockAttempt) -> None:
        if job.deliver(attempt, self._clock()):
            job.stream.finish()


def _fail(jobs: Sequence[BlockJob], error: BaseException, told: BaseException) -> None:
    """End jobs that have met an error with what they are told of it.

    Its traceback is logged, then dropped: it holds the jobs and all their tensors.
    """
    log.error("a tick failed; %d utterance(s) end with it", len(jobs), exc_info=error)
    error.with_traceback(None)
    for job in jobs:
        job.stream.finish(told)


def _has_ended(job: BlockJob) -> bool:
    if job.stream.cancelled:
        job.stream.finish()
    return job.stream.finished
