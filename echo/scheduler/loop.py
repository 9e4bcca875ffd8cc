"""The device thread: alternates between a slice of the side tasks and a tick of the jobs, until it is closed."""

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
from dataclasses import replace
from typing import TypeVar

from echo.errors import DeviceStopped, NotReady, OutOfMemory, TooLarge
from echo.model.base import BlockModel, Demand, Prepared
from echo.scheduler.cores import CoreThreads
from echo.scheduler.job import BlockJob
from echo.scheduler.policy import Limits, in_background
from echo.scheduler.runner import DeviceLost, JobRunner
from echo.scheduler.side_tasks import SideTasks, Sliced
from echo.scheduler.wait import Candidate, Pace, work_ahead
from echo.stream import FrameStream
from echo.types import Utterance, Workload
from echo.vad import SilenceGate

log = logging.getLogger(__name__)

T = TypeVar("T")

#: A tick takes well under a second on an accelerator; a thread that takes this long for one is stuck.
STALL_S = 60.0
#: Seconds that ``close`` waits for the current tick.
_CLOSE_S = 5.0


def _closing() -> NotReady:
    return NotReady("The server is shutting down.", retry_after_s=5)


class Scheduler:
    """Owns the device and its thread. Work is submitted from any thread and runs in that one.

    ``stall_s`` is the longest that one piece of work may take before the device counts as stuck.
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
        self._side_tasks = SideTasks()
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
        #: Set when no more work is accepted: the error that new work gets.
        self._refusal: NotReady | None = None
        #: The device is stuck, and nobody waits for the thread any more.
        self._given_up = False
        self._busy_since: float | None = None
        #: Clock time up to which ``_pace`` has been updated.
        self._counted = clock()
        self.ticks = 0
        #: Ticks in which a step has succeeded.
        self.steps = 0
        #: How often the device has had no memory for a side task.
        self._tasks_out_of_memory = 0
        self._thread = threading.Thread(target=self._run, name="echo-device", daemon=True)
        self._thread.start()

    # -- from any thread

    def prepare(self, utterance: Utterance) -> Utterance:
        """Return the utterance with its tokens and its estimated demand.

        Raises TooLarge for one that does not fit into the device's memory even alone.
        """
        return replace(utterance, prepared=self._prepared(utterance))

    def submit(self, utterance: Utterance) -> FrameStream:
        """Queue an utterance. Its stream ends with NotReady when the scheduler is closing or the device has stopped.

        One that is not prepared is prepared first, and TooLarge raised as by ``prepare``.
        """
        prepared = self._prepared(utterance)
        stream = FrameStream()
        now = self._clock()
        job = BlockJob(
            utterance,
            stream,
            prepared,
            order=next(self._orders),
            arrived=now,
            first_deadline=now + self._limits.first_sound_s,
            rate=self._rate,
        )
        with self._changed:
            if self._refusal is not None:
                stream.finish(self._refusal)
                return stream
            self._inbox.append(job)
            self._changed.notify()
        return stream

    def queue_wait(self, utterance: Utterance | None = None) -> float:
        """Estimate how long an utterance, submitted now, would wait, in seconds; None = one that needs no memory."""
        demand = Demand() if utterance is None else self._prepared(utterance).demand
        deadline = self._clock() + self._limits.first_sound_s
        candidate = Candidate(deadline, next(self._orders), demand.nbytes, demand.work)
        # A cancelled job is dropped at the next step; nobody waits for what is left of it.
        active, waiting = ([job for job in jobs if not job.stream.cancelled] for jobs in self._jobs())
        return work_ahead(candidate, active, waiting, self._runner.limits) * self._pace.seconds_per_work

    def workload(self) -> Workload:
        """Current queue and memory use."""
        active, waiting = self._jobs()
        return Workload(
            active=len(active),
            waiting=sum(not in_background(job) for job in waiting),
            nbytes=sum(job.nbytes for job in active),
            max_nbytes=self._limits.max_bytes,
            queue_wait_s=self.queue_wait(),
            busy_s=self._busy_s(),
            steps=self.steps,
            out_of_memory=self._runner.out_of_memory + self._tasks_out_of_memory,
        )

    def run(self, function: Callable[[], T]) -> T:
        """Run a function on the device thread, between two ticks, and wait for its result."""

        def in_one_slice() -> Generator[None, None, T]:
            return function()
            yield

        return self.submit_sliced(in_one_slice()).result()

    def submit_sliced(self, task: Sliced[T]) -> Future[T]:
        """Run a generator on the device thread, one slice between two ticks.

        The future gets its result, or NotReady when the scheduler is closing or the device has stopped. Cancelling the
        future ends the generator.
        """
        with self._changed:
            if self._refusal is not None:
                task.close()
                refused: Future[T] = Future()
                refused.set_exception(copy(self._refusal))
                return refused
            result = self._side_tasks.add(task)
            self._changed.notify()
        return result

    def reset_pace(self) -> None:
        """Measure the device's pace afresh; called after the warm-up, which runs slower than later work."""
        self._pace = Pace()

    @property
    def jobs(self) -> int:
        """Number of utterances that are active or waiting."""
        return sum(map(len, self._jobs()))

    def healthy(self) -> bool:
        """False when the thread has died, or one piece of work has taken longer than ``stall_s``."""
        return self._thread.is_alive() and not self._given_up and self._busy_s() < self._stall_s

    def give_up(self) -> None:
        """Fail everything at once, without waiting for a device that does not answer any more."""
        log.error("the device thread is stuck and is abandoned; its stack:\n%s", self._stack())
        self._abandon(DeviceStopped())

    def close(self) -> None:
        """Fail what is left and end the thread; a thread that does not end in a few seconds is abandoned."""
        with self._changed:
            self._refusal = self._refusal or _closing()
            self._changed.notify()
        if not self._given_up:
            self._thread.join(_CLOSE_S)
        if self._thread.is_alive():
            log.warning("the device thread does not end; its stack:\n%s", self._stack())
            self._abandon(_closing())

    def _abandon(self, error: NotReady) -> None:
        with self._changed:
            self._refusal = self._refusal or error
            jobs = (*self._runner.active, *self._runner.waiting, *self._inbox)
            self._given_up = True
            self._side_tasks.abandon(error)
            self._changed.notify()
        for job in jobs:
            job.stream.finish(error)

    def _busy_s(self) -> float:
        """Seconds that the oldest piece of work has taken so far; 0 when there is none."""
        starts = [since for since in (self._busy_since, self._runner.busy_since) if since is not None]
        return max(0.0, self._clock() - min(starts)) if starts else 0.0

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._thread.ident or 0)
        return "".join(traceback.format_stack(frame)) if frame is not None else "none: it has ended"

    def _prepared(self, utterance: Utterance) -> Prepared:
        if isinstance(utterance.prepared, Prepared):
            return utterance.prepared
        tokens = self._model.tokenize(utterance.text)
        demand = self._model.demand(utterance, tokens)
        if demand.nbytes > self._limits.max_bytes:
            raise TooLarge(
                f"The request needs {_megabytes(demand.nbytes)} MB of the device's memory; at most "
                f"{_megabytes(self._limits.max_bytes)} MB are allowed. Smaller blocks or a shorter voice need less."
            )
        return Prepared(tokens, demand)

    def _jobs(self) -> tuple[Sequence[BlockJob], Sequence[BlockJob]]:
        """The active and the waiting jobs."""
        with self._changed:
            return self._runner.active, (*self._runner.waiting, *self._inbox)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify()

    # -- in the device thread

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                self._busy_since = self._clock()
                self._tick()
                self._busy_since = None
        except BaseException:
            log.exception("the device thread has failed; no more speech can be generated")
            self._shut_down(DeviceStopped())
            raise
        self._shut_down(_closing())

    def _shut_down(self, error: NotReady) -> None:
        """Refuse new work and fail what is left."""
        with self._changed:
            self._refusal = self._refusal or error
            left = list(self._inbox)
            self._inbox.clear()
        self._runner.update(left)
        self._runner.fail_all(error)
        self._side_tasks.fail_all(error)
        self._busy_since = None

    def _wait_for_work(self) -> bool:
        """Wait until there is work, and hand arrivals to the runner; False once closing."""
        with self._changed:
            while not (self._refusal or self._inbox or self._side_tasks or self._runner.has_work()):
                self._changed.wait(timeout=None if not self._runner.active else 0.5)
                if self._runner.busy_since is None:
                    self._counted = self._clock()  # idle time is not part of the pace
            arrivals = list(self._inbox)
            self._inbox.clear()
            self._runner.update(arrivals)
        return self._refusal is None

    def _tick(self) -> None:
        """Run a slice of a side task, then a tick of the jobs, so that neither delays the other for longer."""
        if self._side_tasks and isinstance(self._side_tasks.run_slice(self._told), DeviceStopped):
            raise DeviceLost
        done = self._runner.tick()
        if done is not None:
            self.ticks += 1
            self.steps += done > 0
            now = self._clock()
            self._pace.count(now - self._counted, done)
            self._counted = now

    def _told(self, error: Exception) -> Exception:
        """What those who wait for a side task are told of its error."""
        if self._model.lost_with(error):
            told: NotReady = DeviceStopped()
        elif self._model.out_of_memory(error):
            told = OutOfMemory()
            self._tasks_out_of_memory += 1
        else:
            return error
        log.error("a side task failed", exc_info=error)
        error.with_traceback(None)  # it holds all tensors of the task
        return told


def _megabytes(count: float) -> int:
    return round(count / 2**20)
