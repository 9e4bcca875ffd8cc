"""The device thread: takes utterances and errands in, does a slice of each kind of work in turn, until it is closed."""

from __future__ import annotations

import itertools
import logging
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Executor, Future
from copy import copy
from typing import TypeVar

from echo.errors import DeviceStopped, NotReady, TooLarge
from echo.model.base import BlockModel, Demand
from echo.scheduler.errands import Errands, Sliced
from echo.scheduler.job import BlockJob
from echo.scheduler.policy import Limits
from echo.scheduler.runner import Cores, Gate, JobRunner
from echo.scheduler.wait import Newcomer, Pace, work_ahead
from echo.stream import FrameStream
from echo.types import EngineLoad, Utterance

log = logging.getLogger(__name__)

T = TypeVar("T")

#: A tick takes well under a second on an accelerator; a thread that is at one for this long is stuck.
STALL_S = 60.0
#: How long ``close`` waits for the thread to finish what it is at.
_CLOSE_S = 5.0


def _closing() -> NotReady:
    return NotReady("The server is shutting down.", retry_after_s=5)


class Scheduler:
    """Owns the device. Work is submitted from any thread; everything else happens in the scheduler's own.

    ``stall_s`` is the longest that one piece of work may take before the device counts as stuck.
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
        stall_s: float = STALL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model = model
        self._rate = sample_rate
        self._limits = limits
        self._stall_s = stall_s
        self._clock = clock
        self._orders = itertools.count()
        self._changed = threading.Condition()
        self._inbox: deque[BlockJob] = deque()
        self._errands = Errands()
        self._runner = JobRunner(
            model,
            sample_rate=sample_rate,
            limits=limits,
            gate=gate,
            workers=workers,
            cores=cores,
            wake=self._wake,
            clock=clock,
        )
        self._pace = Pace()
        #: What is said to those who come too late, once nothing more is taken.
        self._refusal: NotReady | None = None
        #: Nobody waits for the thread any more.
        self._given_up = False
        self._busy_since: float | None = None
        #: Until when time has been told to the pace.
        self._counted = clock()
        self.ticks = 0
        self._thread = threading.Thread(target=self._run, name="echo-device", daemon=True)
        self._thread.start()

    # -- from any thread

    def submit(self, utterance: Utterance) -> FrameStream:
        """Queue an utterance; its stream ends with NotReady when the scheduler is closing or the device has stopped.

        Raises TooLarge for one that does not fit into the device's memory even alone.
        """
        demand = self._demand(utterance)
        stream = FrameStream()
        now = self._clock()
        job = BlockJob(
            utterance,
            stream,
            demand,
            order=next(self._orders),
            arrived=now,
            first_due=now + self._limits.first_sound_s,
            rate=self._rate,
        )
        with self._changed:
            if self._refusal is not None:
                stream.finish(self._refusal)
                return stream
            self._inbox.append(job)
            self._changed.notify()
        return stream

    def queue_wait(self, work: Sequence[Utterance]) -> float:
        """Return the seconds that the first of a request's utterances, handed in now, is likely to wait.

        0 for a request without any. Raises TooLarge when one of them does not fit into the device's memory even alone.
        """
        if not work:
            return 0.0
        # Of those that share plan and voice, the longest text needs most; a request may have hundreds of utterances.
        longest = {(id(each.plan), id(each.voice)): each for each in sorted(work, key=lambda each: len(each.text))}
        for utterance in longest.values():
            self._demand(utterance)
        return self._wait(self._demand(work[0]))

    def load(self) -> EngineLoad:
        """Return how much is in work and how much waits."""
        active, waiting = self._jobs()
        return EngineLoad(
            active=len(active),
            waiting=len(waiting),
            nbytes=sum(job.nbytes for job in active),
            max_nbytes=self._limits.max_bytes,
            queue_wait_s=self._wait(Demand()),
            busy_s=self._busy_s(),
        )

    def run(self, errand: Callable[[], T]) -> T:
        """Run a function on the device thread, between two ticks, and wait for its result."""

        def whole() -> Generator[None, None, T]:
            return errand()
            yield

        return self.run_sliced(whole())

    def submit_sliced(self, errand: Sliced[T]) -> Future[T]:
        """Have a generator run on the device thread, one slice between two ticks.

        The future gets its result, or NotReady when the scheduler is closing or the device has stopped. Cancelling it
        ends the generator.
        """
        with self._changed:
            if self._refusal is not None:
                errand.close()
                refused: Future[T] = Future()
                refused.set_exception(copy(self._refusal))
                return refused
            done = self._errands.add(errand)
            self._changed.notify()
        return done

    def run_sliced(self, errand: Sliced[T]) -> T:
        """Run a generator as ``submit_sliced`` does, and wait for its result."""
        return self.submit_sliced(errand).result()

    def forget_pace(self) -> None:
        """Measure the device's pace afresh: what came before (a warm-up) says nothing of what is to come."""
        self._pace = Pace()

    @property
    def jobs(self) -> int:
        """Utterances that wait or are in work."""
        return sum(map(len, self._jobs()))

    def healthy(self) -> bool:
        """False when the thread has died, or has been at one piece of work for too long."""
        return self._thread.is_alive() and not self._given_up and self._busy_s() < self._stall_s

    def give_up(self) -> None:
        """Fail everything at once, without waiting for the device, which does not answer any more."""
        log.error("the device thread is given up; it is at\n%s", self._where())
        self._abandon(DeviceStopped())

    def close(self) -> None:
        """Fail what is left and end the thread; one that does not come back in a few seconds is left behind."""
        with self._changed:
            self._refusal = self._refusal or _closing()
            self._changed.notify()
        if not self._given_up:
            self._thread.join(_CLOSE_S)
        if self._thread.is_alive():
            log.warning("the device thread does not end; it is at\n%s", self._where())
            self._abandon(_closing())

    def _abandon(self, error: NotReady) -> None:
        with self._changed:
            self._refusal = self._refusal or error
            jobs = (*self._runner.active, *self._runner.waiting, *self._inbox)
            self._given_up = True
            self._errands.abandon(error)
            self._changed.notify()
        for job in jobs:
            job.stream.finish(error)

    def _busy_s(self) -> float:
        """Seconds that the oldest piece of work has taken so far; 0 when there is none."""
        began = [since for since in (self._busy_since, self._runner.busy_since) if since is not None]
        return max(0.0, self._clock() - min(began)) if began else 0.0

    def _where(self) -> str:
        frame = sys._current_frames().get(self._thread.ident or 0)
        return "".join(traceback.format_stack(frame)) if frame is not None else "nothing: it has ended"

    def _demand(self, utterance: Utterance) -> Demand:
        demand = self._model.demand(utterance)
        if demand.nbytes > self._limits.max_bytes:
            raise TooLarge(
                f"The request needs {_megabytes(demand.nbytes)} MB of the device's memory; at most "
                f"{_megabytes(self._limits.max_bytes)} MB are allowed. Smaller blocks or a shorter voice need less."
            )
        return demand

    def _wait(self, demand: Demand) -> float:
        due = self._clock() + self._limits.first_sound_s
        newcomer = Newcomer(due, next(self._orders), demand.nbytes, demand.work)
        return work_ahead(newcomer, *self._jobs(), self._limits) * self._pace.seconds_per_work

    def _jobs(self) -> tuple[Sequence[BlockJob], Sequence[BlockJob]]:
        """Those in work and those that wait."""
        with self._changed:
            return self._runner.active, (*self._runner.waiting, *self._inbox)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify()

    # -- in the device thread

    def _run(self) -> None:
        try:
            while self._take_in():
                self._busy_since = self._clock()
                self._tick()
                self._busy_since = None
        except BaseException:
            log.exception("the device's thread has failed; nothing more can be spoken")
            self._end(DeviceStopped())
            raise
        self._end(_closing())

    def _end(self, error: NotReady) -> None:
        """Refuse what comes from now on and fail what is left."""
        with self._changed:
            self._refusal = self._refusal or error
            left = list(self._inbox)
            self._inbox.clear()
        self._runner.take_in(left)
        self._runner.end_all(error)
        self._errands.end_all(error)
        self._busy_since = None

    def _take_in(self) -> bool:
        """Wait until there is work and sort the arrivals in; False once closing."""
        with self._changed:
            while not (self._refusal or self._inbox or self._errands or self._runner.has_work()):
                self._changed.wait(timeout=None if not self._runner.active else 0.5)
                if self._runner.busy_since is None:
                    self._counted = self._clock()  # nobody's work was being done
            arrivals = list(self._inbox)
            self._inbox.clear()
            self._runner.take_in(arrivals)
        return self._refusal is None

    def _tick(self) -> None:
        """A slice of an errand, then a tick of the jobs: neither keeps the other waiting for longer than that."""
        if self._errands:
            self._errands.advance()
        done = self._runner.tick()
        if done is not None:
            self.ticks += 1
            now = self._clock()
            self._pace.count(now - self._counted, done)
            self._counted = now


def _megabytes(count: float) -> int:
    return round(count / 2**20)
