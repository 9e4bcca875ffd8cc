"""JobRunner: the jobs at hand, and one tick of work on them. The device thread drives it; it has no thread itself."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np

from echo.model.base import BlockModel, DecodeState, Latents
from echo.scheduler.job import BlockJob, Draw
from echo.scheduler.policy import Limits, Phase, Work, activate, next_work
from echo.types import Audio

log = logging.getLogger(__name__)

_NOTHING: Audio = np.zeros(0, np.float32)


class Gate(Protocol):
    """Judges a block's silence; called from worker threads."""

    @property
    def max_rerolls(self) -> int:
        """Draws beyond the first."""
        ...

    @property
    def threshold_ms(self) -> float:
        """A silence at least this long is drawn again."""
        ...

    def longest_silence_ms(self, samples: Audio, rate: int, *, is_last: bool, needs_speech: bool) -> float:
        """Longest silence of a block in milliseconds."""
        ...


T = TypeVar("T")


class Cores(Protocol):
    """Places of work of a device that does several things at a time, as a CPU does."""

    @property
    def count(self) -> int:
        """How many there are."""
        ...

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Start a function on one of them."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Flight:
    """Work that was started and is not finished: the jobs it is for, and what is done with its result.

    on_core      False for what only waits (for a copy from the device)
    row_latents  of the step, if it is one
    """

    jobs: Sequence[BlockJob]
    result: Future[Any]
    finish: Callable[[Any], None]
    since: float
    on_core: bool
    row_latents: int


class JobRunner:
    """Works on jobs tick by tick: what is next is the policy's to say, here it is done.

    With ``cores`` a tick starts work for every core that is free; without, the device is one that work is queued on,
    and a tick is a piece of it. What comes back is finished in a later tick.

    ``wake`` is called from another thread when something has come back. All methods are for one thread; ``active`` and
    ``waiting`` are replaced, never changed, so another thread may look at them.
    """

    def __init__(
        self,
        model: BlockModel,
        *,
        sample_rate: int,
        limits: Limits,
        gate: Gate | None = None,
        workers: Executor | None = None,
        cores: Cores | None = None,
        wake: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model = model
        self._rate = sample_rate
        self._limits = limits
        self._gate = gate
        self._workers = workers
        self._cores = cores
        self._flights: list[Flight] = []
        self._wake = wake
        self._clock = clock
        self._last: Phase | None = None
        self.waiting: tuple[BlockJob, ...] = ()
        self.active: tuple[BlockJob, ...] = ()

    def take_in(self, jobs: Iterable[BlockJob] = ()) -> None:
        """Add arrivals, drop who has left, and activate whom there is room for."""
        self.active = tuple(job for job in self.active if not _gone(job))
        self.waiting = tuple(job for job in (*self.waiting, *jobs) if not _gone(job))
        if ready := activate(self.waiting, self.active, self._limits):
            self.waiting = tuple(job for job in self.waiting if job not in ready)
            self.active = (*self.active, *ready)
            for job in ready:
                job.stream.stats.queue_s = self._clock() - job.arrived

    @property
    def busy_since(self) -> float | None:
        """When the oldest work began that has not come back; None when there is none."""
        return min((flight.since for flight in self._flights), default=None)

    def has_work(self) -> bool:
        """Whether ``take_in`` or ``tick`` would do anything now."""
        return (
            any(job.stream.cancelled or job.stream.finished for job in (*self.active, *self.waiting))
            or any(job.verdict is not None and job.verdict.done() for job in self.active)
            or any(flight.result.done() for flight in self._flights)
            or (self._free_cores > 0 and next_work(self._idle(), self._limits) is not None)
            or bool(activate(self.waiting, self.active, self._limits))
        )

    def tick(self) -> int | None:
        """Do or start the next work; returns the row-latents of the steps taken, None when there was nothing to do."""
        for job in self.active:
            if job.verdict is not None and job.verdict.done():
                self._guard([job], partial(self._judge, job))
        landed = [flight for flight in self._flights if flight.result.done()]
        self._flights = [flight for flight in self._flights if flight not in landed]
        taken = sum(self._land(flight) for flight in landed)
        started = False
        while self._free_cores > 0 and (work := next_work(self._idle(), self._limits, after=self._last)) is not None:
            self._last = work.phase
            started = True
            taken += self._guard(work.jobs, partial(self._begin, work)) or 0
            if self._cores is None or work.phase is Phase.PREPARE:
                break
        return taken if started or landed else None

    def end_all(self, error: Exception) -> None:
        """Fail every job, and wait for what is being done for it."""
        for job in (*self.active, *self.waiting):
            job.stream.finish(error)
        self.take_in()
        wait([flight.result for flight in self._flights])
        self._flights = []

    @property
    def _free_cores(self) -> int:
        count = self._cores.count if self._cores is not None else 1
        return count - sum(flight.on_core for flight in self._flights)

    def _idle(self) -> list[BlockJob]:
        """The active jobs that nothing is being done for and that have not failed since ``take_in``."""
        busy = {id(job) for flight in self._flights for job in flight.jobs}
        return [job for job in self.active if id(job) not in busy and not job.stream.finished]

    def _begin(self, work: Work[BlockJob]) -> int:
        """Start a piece of work; returns the row-latents of the step, if it was one that is finished already."""
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
        """What one core takes of a batch so that there is something left for the other free ones."""
        return jobs[: -(-len(jobs) // self._free_cores)] if self._cores is not None else jobs

    def _step(self, jobs: Sequence[BlockJob]) -> int:
        amounts = [job.row_latents for job in jobs]
        samplers = [job.sampler for job in jobs]

        def step() -> None:
            self._model.step(samplers)

        def finish(_: object) -> None:
            for job, amount in zip(jobs, amounts, strict=True):
                self._guard([job], partial(job.step_taken, self._model, amount))

        if self._cores is not None:
            self._fly(jobs, self._cores.submit(step), finish, row_latents=sum(amounts))
            return 0

        step()
        finish(None)
        return sum(amounts)

    def _decode(self, jobs: Sequence[BlockJob]) -> None:
        states, pending = [job.decode_state for job in jobs], [job.pending for job in jobs]

        def finish(results: Sequence[tuple[Audio, DecodeState]]) -> None:
            for job, (samples, state) in zip(jobs, results, strict=True):
                if _gone(job):
                    continue
                draw = job.decoded(samples, state)
                if draw is None:
                    continue
                if self._gate is None or self._workers is None:
                    self._deliver(job, draw)
                else:
                    self._send_to_gate(job, draw, self._gate, self._workers)

        if not len(pending[0]):
            finish([(_NOTHING, None)] * len(jobs))
        elif self._cores is not None:
            self._fly(jobs, self._cores.submit(lambda: self._model.decode(states, pending)()), finish)
        else:
            self._launch(jobs, states, pending, finish)

    def _launch(
        self,
        jobs: Sequence[BlockJob],
        states: Sequence[DecodeState],
        pending: Sequence[Latents],
        finish: Callable[[Sequence[tuple[Audio, DecodeState]]], None],
    ) -> None:
        samples = self._model.decode(states, pending)
        if self._model.decodes_later and self._workers is not None:
            self._fly(jobs, self._workers.submit(samples), finish, on_core=False)
        else:
            finish(samples())

    def _fly(
        self,
        jobs: Sequence[BlockJob],
        result: Future[T],
        finish: Callable[[T], None],
        *,
        on_core: bool = True,
        row_latents: int = 0,
    ) -> None:
        self._flights.append(Flight(jobs, result, finish, self._clock(), on_core, row_latents))
        result.add_done_callback(lambda _: self._wake())

    def _land(self, flight: Flight) -> int:
        """Finish work that has come back; returns the row-latents of its step."""
        error = flight.result.exception()  # not raised: its traceback would hold this frame, and so the flight
        if error is None:
            self._guard(flight.jobs, lambda: flight.finish(flight.result.result()))
        else:
            _fail(flight.jobs, error)
        return flight.row_latents

    def _guard(self, jobs: Sequence[BlockJob], do: Callable[[], T]) -> T | None:
        """One failed tick fails its own jobs only; its result is then None."""
        try:
            return do()
        except Exception as error:
            _fail(jobs, error)
            return None

    def _send_to_gate(self, job: BlockJob, draw: Draw, gate: Gate, workers: Executor) -> None:
        needs_speech = job.needs_speech

        def judge() -> float:
            return gate.longest_silence_ms(draw.samples, self._rate, is_last=draw.is_last, needs_speech=needs_speech)

        job.verdict = workers.submit(judge)
        job.verdict.add_done_callback(lambda _: self._wake())

    def _judge(self, job: BlockJob) -> None:
        assert self._gate is not None
        draw = job.judged()
        if draw.silence_ms >= self._gate.threshold_ms and job.attempt < self._gate.max_rerolls:
            job.redraw()
        else:
            self._deliver(job, job.best)

    def _deliver(self, job: BlockJob, draw: Draw) -> None:
        if job.deliver(draw, self._clock()):
            job.stream.finish()


def _fail(jobs: Sequence[BlockJob], error: BaseException) -> None:
    """End jobs with an error, whose traceback is logged and then dropped: it holds the jobs and all they have."""
    log.error("a tick failed; %d utterance(s) end with it", len(jobs), exc_info=error)
    for job in jobs:
        job.stream.finish(error.with_traceback(None))


def _gone(job: BlockJob) -> bool:
    if job.stream.cancelled:
        job.stream.finish()
    return job.stream.finished
