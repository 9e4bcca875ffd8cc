"""Whatever mix of utterances comes, whoever leaves, reads slowly or fails: the runner keeps its promises."""

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from echo.errors import EngineFailed, NotReady, OutOfMemory, Preempted
from echo.scheduler.job import BlockJob
from echo.scheduler.policy import Limits
from echo.scheduler.runner import JobRunner
from echo.types import SAMPLE_RATE, Audio, Listener, Utterance
from echo.vad import SilenceGate, SilenceRules, Span
from tests.unit.scheduler.timed_model import TimedModel
from tests.unit.scheduler.toy_model import ToySampler, utterance

LIMITS = Limits(max_jobs=4, max_bytes=40, max_rows=8, max_row_latents=100, max_unread_s=1.0)
REROLLS = 2
Blocks = list[tuple[int, int]]

#: (latents, steps) of each block; a block of 24 is 1.1 s of audio.
blocks = st.lists(st.tuples(st.sampled_from([4, 8, 24]), st.integers(1, 4)), min_size=1, max_size=3)


def ticks_of(wanted: Utterance) -> int:
    """Return how many ticks an utterance takes at most, when it has each to itself."""
    return sum((2 + block.steps) * (1 + REROLLS) for block in wanted.plan.blocks)


class Later(Executor):
    """Keeps what is submitted until it is told to do it."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **more: Any) -> Future[Any]:
        done: Future[Any] = Future()
        self.waiting.append((done, lambda: function(*arguments, **more)))
        return done

    def work(self) -> None:
        done, function = self.waiting.pop(0)
        try:
            done.set_result(function())
        except Exception as error:
            done.set_exception(error)


def silences(samples: Audio, rate: int) -> list[Span]:
    """Find 10 ms of silence in every block of an odd seed."""
    return [(0.0, 0.01)] if round(float(samples[0]) * 1e6) // 1000 % 2 else []


class LaterCores(Later):
    """Cores that compute when they are told to."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count


class WatchedModel(TimedModel):
    """Checks every step it is asked for."""

    mix_sizes = False
    #: Blocks that the device has memory for at a time.
    room = 100

    def step(self, samplers: Sequence[ToySampler]) -> None:
        assert len({id(sampler) for sampler in samplers}) == len(samplers), "a job twice in one tick"
        rows = sum(sampler.next_rows for sampler in samplers)
        if len(samplers) > 1:
            assert rows <= LIMITS.max_rows
            assert sum(sampler.next_rows * sampler.size for sampler in samplers) <= LIMITS.max_row_latents
            assert self.mix_sizes or len({sampler.size for sampler in samplers}) == 1
        if len(samplers) > self.room:
            raise torch.OutOfMemoryError
        super().step(samplers)  # asserts that no block is stepped past its end

    def decode(self, states: Sequence[Any], latents: Sequence[np.ndarray]) -> Any:
        if len(latents) > self.room:
            raise torch.OutOfMemoryError
        return super().decode(states, latents)


class AnyMix(RuleBasedStateMachine):
    """Utterances come, go, fail and are read in any order, between ticks."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: list[BlockJob] = []
        self.cancelled: set[int] = set()
        self.ended: NotReady | None = None

    @initialize(
        gated=st.booleans(),
        mix_sizes=st.booleans(),
        doomed=st.sampled_from([None, (3, 0, 0, 0), (5, 0, 1, 0), (4, 0, 0, 1)]),
        cores=st.integers(0, 3),
        decodes_asynchronously=st.booleans(),
        room=st.sampled_from([100, 1, 2]),
    )
    def open(
        self,
        gated: bool,
        mix_sizes: bool,
        doomed: tuple[int, ...] | None,
        cores: int,
        decodes_asynchronously: bool,
        room: int,
    ) -> None:
        self.workers = Later()
        self.cores = LaterCores(cores)
        self.model = WatchedModel(
            fail_on=doomed, unreadable=frozenset({9}), decodes_asynchronously=decodes_asynchronously
        )
        self.model.mix_sizes = mix_sizes
        self.model.room = room
        self.runner = JobRunner(
            self.model,
            sample_rate=SAMPLE_RATE,
            limits=replace(LIMITS, mix_sizes=mix_sizes),
            gate=SilenceGate(SilenceRules(threshold_ms=10, max_rerolls=REROLLS), silences) if gated else None,
            workers=self.workers,
            cores=self.cores if cores else None,
            clock=self.model.clock,
        )

    @rule(shape=blocks, text=st.sampled_from(["hi", "hi", "hi", "fail"]))
    def arrive(self, shape: Blocks, text: str) -> None:
        order = len(self.jobs)
        self.jobs.append(self.model.job(utterance(seed=order, blocks=shape, text=text), order))
        self.runner.update(self.jobs[-1:])

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.jobs))
        self.cancelled.add(job.order)
        job.stream.cancel()

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        stream = data.draw(st.sampled_from(self.jobs)).stream
        stream.consumed_samples = stream.produced_samples

    @precondition(lambda self: self.workers.waiting)
    @rule()
    def judge(self) -> None:
        self.workers.work()

    @precondition(lambda self: self.cores.waiting)
    @rule()
    def compute(self) -> None:
        self.cores.work()

    @rule(count=st.integers(1, 6))
    def tick(self, count: int) -> None:
        for _ in range(count):
            self.runner.update()
            self.runner.tick()

    @rule()
    def close(self) -> None:
        self.ended = NotReady("closing", retry_after_s=5)
        self.finish_all()
        self.runner.fail_all(self.ended)
        assert all(job.stream.finished for job in self.jobs)

    @invariant()
    def within_the_limits(self) -> None:
        active = self.runner.active if hasattr(self, "runner") else ()
        assert len(active) <= LIMITS.max_jobs
        assert sum(job.nbytes for job in active) <= LIMITS.max_bytes
        assert len(self.cores.waiting) <= self.cores.count if hasattr(self, "runner") else True
        assert all(job.stream.stats.rerolls <= REROLLS * len(job.utterance.plan.blocks) for job in active)

    def teardown(self) -> None:
        """Once everybody reads, every utterance ends, after no more ticks than there is work."""
        if not hasattr(self, "runner"):
            return
        # Some more are those for which there was no memory.
        patience = 25 + 2 * sum(ticks_of(job.utterance) for job in self.jobs)  # one to begin, one to end
        while self.runner.has_work() or self.workers.waiting or any(not job.stream.finished for job in self.jobs):
            patience -= 1
            assert patience, "somebody waits in vain"
            for job in self.jobs:
                job.stream.consumed_samples = job.stream.produced_samples
            self.finish_all()
            self.runner.update()
            self.runner.tick()
        self.runner.update()
        assert not self.runner.active
        assert not self.runner.waiting
        for job in self.jobs:
            self.ended_well(job)

    def finish_all(self) -> None:
        """Run what was submitted to the workers and the cores."""
        while self.workers.waiting:
            self.workers.work()
        while self.cores.waiting:
            self.cores.work()

    def ended_well(self, job: BlockJob) -> None:
        """A stream is complete, or whoever hears it is told why not."""
        wanted = sum(block.size for block in job.utterance.plan.blocks)
        try:
            frames = list(job.stream)
        except OutOfMemory:
            raise  # each of them fits alone
        except (EngineFailed, NotReady):
            return
        if job.order not in self.cancelled:
            assert sum(len(frame.samples) for frame in frames) == wanted * 2048
            assert [frame.is_last for frame in frames] == [False] * (len(frames) - 1) + [True]


TestAnyMix = pytest.mark.slow(AnyMix.TestCase)
TestAnyMix.settings = settings(max_examples=120, stateful_step_count=40, deadline=None, derandomize=True)


@given(
    before=st.lists(blocks, max_size=8),
    subject=blocks,
    endless=st.lists(blocks, min_size=1, max_size=5),
    every=st.integers(1, 4),
)
@settings(max_examples=150, deadline=None, derandomize=True)
@pytest.mark.slow
def test_nobody_starves_however_many_come(
    before: list[Blocks], subject: Blocks, endless: list[Blocks], every: int
) -> None:
    """A first sound is heard soon after it is due: nobody who comes later, but those who are active, may delay it."""
    model = TimedModel()
    runner = JobRunner(model, sample_rate=SAMPLE_RATE, limits=LIMITS, clock=model.clock)

    def arrive(order: int, shape: Blocks) -> BlockJob:
        job = model.job(utterance(seed=order, blocks=shape), order, first_sound_s=LIMITS.first_sound_s)
        runner.update([job])
        return job

    earlier = [arrive(order, shape) for order, shape in enumerate(before)]
    job = arrive(len(earlier), subject)
    others = LIMITS.max_jobs * max(map(model.seconds, endless))
    # Twice the work: every other tick may be a preparation for an arrival.
    promised = LIMITS.first_sound_s + 2 * (sum(map(model.seconds, [*before, subject])) + others)
    for tick in itertools.count():
        assert model.now < promised, f"nothing heard after {promised} s"
        if tick % every == 0:
            arrive(100 + tick, endless[tick % len(endless)])
        for other in runner.active:
            other.stream.consumed_samples = other.stream.produced_samples
        runner.update()
        assert runner.tick() is not None
        if job.stream.produced_samples:
            return


@given(st.lists(blocks, min_size=1, max_size=10))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_batched_equals_one_at_a_time(shapes: list[Blocks]) -> None:
    def speak(max_jobs: int) -> list[list[float]]:
        model = TimedModel()
        runner = JobRunner(model, sample_rate=SAMPLE_RATE, limits=Limits(max_jobs=max_jobs), clock=model.clock)
        jobs = [model.job(utterance(seed=i, blocks=shape), i) for i, shape in enumerate(shapes)]
        runner.update(jobs)
        while runner.has_work():
            runner.update()
            runner.tick()
            assert len(runner.active) <= max_jobs
        return [[float(np.sum(frame.samples)) for frame in job.stream] for job in jobs]

    assert speak(1) == speak(8)


def test_work_in_the_background_makes_room_for_a_listener() -> None:
    runner = JobRunner(TimedModel(), sample_rate=SAMPLE_RATE, limits=replace(LIMITS, max_jobs=1))

    def job(order: int, *, background: bool) -> BlockJob:
        wanted = replace(utterance(order), listener=Listener(background=background))
        return TimedModel().job(wanted, order)

    hidden, heard = job(0, background=True), job(1, background=False)
    runner.update([hidden])
    runner.tick()
    runner.update([heard])
    runner.update()
    assert runner.active == (heard,)
    with pytest.raises(Preempted):
        list(hidden.stream)
