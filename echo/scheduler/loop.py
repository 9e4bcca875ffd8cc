"""The device thread: takes jobs in, asks the policy what is next, does it, hands audio out."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from typing import Protocol, TypeVar

import numpy as np

from echo.errors import NotReady
from echo.model.base import BlockModel, DecodeState
from echo.scheduler.job import BlockJob, Draw
from echo.scheduler.policy import Limits, Phase, activate, next_work
from echo.stream import FrameStream
from echo.types import Audio, Utterance

log = logging.getLogger(__name__)

T = TypeVar("T")

#: A tick takes well under a second; a thread without one for this long, with work at hand, is stuck.
_STUCK_S = 60.0
_CLOSING = "The server is shutting down."
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


class Scheduler:
    """Owns the device. Work is submitted from any thread; everything else happens in the scheduler's own."""

    def __init__(
        self,
        model: BlockModel,
        *,
        sample_rate: int,
        limits: Limits,
        gate: Gate | None = None,
        workers: Executor | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model = model
        self._rate = sample_rate
        self._limits = limits
        self._gate = gate
        self._workers = workers
        self._clock = clock
        self._orders = itertools.count()
        self._changed = threading.Condition()
        self._inbox: deque[BlockJob] = deque()
        self._errands: deque[tuple[Callable[[], object], Future[object]]] = deque()
        self._closing = False
        self._busy_since: float | None = None
        self._waiting: list[BlockJob] = []
        self._active: list[BlockJob] = []
        self.ticks = 0
        self._last: Phase | None = None
        self._thread = threading.Thread(target=self._run, name="echo-device", daemon=True)
        self._thread.start()

    # -- from any thread

    def submit(self, utterance: Utterance) -> FrameStream:
        """Queue an utterance; its stream ends with NotReady when the scheduler is closing."""
        stream = FrameStream()
        now = self._clock()
        job = BlockJob(
            utterance,
            stream,
            order=next(self._orders),
            arrived=now,
            first_due=now + self._limits.first_sound_s,
            rate=self._rate,
        )
        with self._changed:
            if self._closing:
                stream.finish(NotReady(_CLOSING, retry_after_s=5))
                return stream
            self._inbox.append(job)
            self._changed.notify()
        return stream

    def run(self, errand: Callable[[], T]) -> T:
        """Run a function on the device thread, between two ticks, and wait for its result."""
        done: Future[object] = Future()
        with self._changed:
            if self._closing:
                raise NotReady(_CLOSING, retry_after_s=5)
            self._errands.append((errand, done))
            self._changed.notify()
        return done.result()  # type: ignore[return-value]  # what the errand returned

    @property
    def jobs(self) -> int:
        """Utterances that wait or are in work."""
        return len(self._inbox) + len(self._waiting) + len(self._active)

    def healthy(self) -> bool:
        """False when the thread has died, or has been in one tick for a minute."""
        since = self._busy_since
        return self._thread.is_alive() and (since is None or self._clock() - since < _STUCK_S)

    def close(self) -> None:
        """Fail what is left and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    # -- in the device thread

    def _run(self) -> None:
        while self._take_in():
            self._busy_since = self._clock()
            self._tick()
            self._busy_since = None
        for job in self._active + self._waiting + list(self._inbox):
            job.stream.finish(NotReady(_CLOSING, retry_after_s=5))
        for _, done in self._errands:
            done.set_exception(NotReady(_CLOSING, retry_after_s=5))

    def _take_in(self) -> bool:
        """Wait until there is work and sort the arrivals in; False once closing."""
        with self._changed:
            while not (self._closing or self._inbox or self._errands or self._has_work()):
                self._changed.wait(timeout=None if not self._active else 0.5)
            self._waiting += self._inbox
            self._inbox.clear()
        self._active = [job for job in self._active if not self._gone(job)]
        self._waiting = [job for job in self._waiting if not self._gone(job)]
        for job in activate(self._waiting, len(self._active), self._limits):
            assert isinstance(job, BlockJob)
            self._waiting.remove(job)
            self._active.append(job)
            job.stream.stats.queue_s = self._clock() - job.arrived
        return not self._closing

    def _has_work(self) -> bool:
        return (
            any(job.stream.cancelled or job.stream.finished for job in self._active + self._waiting)
            or any(job.verdict is not None and job.verdict.done() for job in self._active)
            or next_work(self._active, self._limits) is not None
            or bool(activate(self._waiting, len(self._active), self._limits))
        )

    def _gone(self, job: BlockJob) -> bool:
        if job.stream.cancelled:
            job.stream.finish()
        return job.stream.finished

    def _tick(self) -> None:
        while self._errands:
            errand, done = self._errands.popleft()
            try:
                done.set_result(errand())
            except Exception as error:
                done.set_exception(error)
        for job in self._active:
            if job.verdict is not None and job.verdict.done():
                self._guard([job], self._judge)
        work = next_work(self._active, self._limits, after=self._last)
        if work is None:
            return
        self.ticks += 1
        self._last = work.phase
        do = {Phase.PREPARE: self._prepare, Phase.STEP: self._step, Phase.DECODE: self._decode}[work.phase]
        self._guard([job for job in work.jobs if isinstance(job, BlockJob)], do)

    def _guard(self, jobs: Sequence[BlockJob], do: Callable[[Sequence[BlockJob]], None]) -> None:
        """One failed tick fails its own jobs only."""
        try:
            do(jobs)
        except Exception as error:
            log.exception("a tick failed; %d utterance(s) end with it", len(jobs))
            for job in jobs:
                job.stream.finish(error)

    def _prepare(self, jobs: Sequence[BlockJob]) -> None:
        for job in jobs:
            job.prepare(self._model)

    def _step(self, jobs: Sequence[BlockJob]) -> None:
        self._model.step([job.sampler for job in jobs])
        for job in jobs:
            job.step_taken(self._model)

    def _decode(self, jobs: Sequence[BlockJob]) -> None:
        results: Sequence[tuple[Audio, DecodeState]] = [(_NOTHING, None)] * len(jobs)
        if len(jobs[0].pending):
            results = self._model.decode([job.decode_state for job in jobs], [job.pending for job in jobs])
        for job, (samples, state) in zip(jobs, results, strict=True):
            draw = job.decoded(samples, state)
            if self._gate is None or self._workers is None:
                self._deliver(job, draw)
            else:
                self._send_to_gate(job, draw, self._gate, self._workers)

    def _send_to_gate(self, job: BlockJob, draw: Draw, gate: Gate, workers: Executor) -> None:
        needs_speech = job.needs_speech

        def judge() -> float:
            return gate.longest_silence_ms(draw.samples, self._rate, is_last=draw.is_last, needs_speech=needs_speech)

        job.verdict = workers.submit(judge)
        job.verdict.add_done_callback(lambda _: self._wake())

    def _judge(self, jobs: Sequence[BlockJob]) -> None:
        (job,) = jobs
        assert self._gate is not None
        draw = job.judged()
        if draw.silence_ms >= self._gate.threshold_ms and job.attempt < self._gate.max_rerolls:
            job.redraw()
        else:
            self._deliver(job, job.best)

    def _deliver(self, job: BlockJob, draw: Draw) -> None:
        if job.deliver(draw, self._clock()):
            job.stream.finish()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify()
