"""The estimated wait: by hand, in general, and against what then happens."""

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echo.scheduler.job import BlockJob
from echo.scheduler.policy import Limits
from echo.scheduler.runner import JobRunner
from echo.scheduler.wait import Candidate, Pace, work_ahead
from echo.types import SAMPLE_RATE
from tests.unit.scheduler.timed_model import TimedModel
from tests.unit.scheduler.toy_model import utterance

LIMITS = Limits(max_jobs=2, max_bytes=100)


@dataclass(frozen=True)
class Plain:
    work: float
    nbytes: int = 0
    deadline: float = 0.0
    order: int = 0


def candidate(nbytes: int = 0, deadline: float = 10.0) -> Candidate:
    return Candidate(deadline=deadline, order=99, nbytes=nbytes, work=1.0)


def test_what_fits_does_not_wait() -> None:
    assert work_ahead(candidate(), [], [], LIMITS) == 0
    assert work_ahead(candidate(nbytes=50), [Plain(1000, nbytes=50)], [], LIMITS) == 0


def test_a_place_is_free_when_the_first_job_ends_and_all_have_advanced_evenly() -> None:
    assert work_ahead(candidate(), [Plain(10), Plain(20)], [], LIMITS) == 20


def test_waiting_jobs_with_an_earlier_deadline_come_first() -> None:
    active = [Plain(10), Plain(20)]
    assert work_ahead(candidate(), active, [Plain(5, deadline=1)], LIMITS) == 30
    assert work_ahead(candidate(), active, [Plain(5, deadline=11)], LIMITS) == 20


def test_memory_is_waited_for_too() -> None:
    assert work_ahead(candidate(nbytes=60), [Plain(10, nbytes=50)], [], LIMITS) == 10
    assert work_ahead(candidate(nbytes=100), [Plain(10, nbytes=50), Plain(20, nbytes=50)], [], LIMITS) == 30


jobs = st.lists(
    st.builds(
        Plain, work=st.floats(0, 1000), nbytes=st.integers(0, 50), deadline=st.floats(0, 20), order=st.integers(0, 50)
    ),
    max_size=8,
)


@pytest.mark.slow
@given(active=st.lists(st.builds(Plain, work=st.floats(0, 1000), nbytes=st.integers(0, 50)), max_size=2), waiting=jobs)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_no_more_is_waited_for_than_there_is_and_more_work_is_never_a_shorter_wait(
    active: list[Plain], waiting: list[Plain]
) -> None:
    total = sum(job.work for job in [*active, *waiting])
    wait = work_ahead(candidate(nbytes=30), active, waiting, LIMITS)
    assert 0 <= wait <= total * (1 + 1e-9)
    assert work_ahead(candidate(nbytes=30), active, [*waiting, Plain(10, deadline=1)], LIMITS) >= wait * (1 - 1e-9)


def test_the_pace_follows_the_device_and_counts_what_comes_between_the_steps() -> None:
    pace = Pace()
    assert pace.seconds_per_work == 0
    pace.count(1.0)
    assert pace.seconds_per_work == 0
    for _ in range(400):
        pace.count(0.2, 100)
        pace.count(0.1)
    assert pace.seconds_per_work == pytest.approx(0.003, rel=0.02)
    for _ in range(400):
        pace.count(0.1, 100)
    assert pace.seconds_per_work == pytest.approx(0.001, rel=0.02)


def test_the_estimated_wait_is_about_the_real_one() -> None:
    """Forty requests of a few seconds at once, on a device that takes eight."""
    model, pace, limits = TimedModel(), Pace(), Limits(max_jobs=8)
    runner = JobRunner(model, sample_rate=SAMPLE_RATE, limits=limits, clock=model.clock)
    shapes = [((32, 8), (64, 8)), ((32, 8),), ((32, 8), (64, 8), (96, 8))]

    def arrive(number: int) -> tuple[BlockJob, float]:
        job = model.job(utterance(seed=number, blocks=shapes[number % 3]), number)
        ahead = work_ahead(Candidate(job.deadline, job.order, 0, 0.0), runner.active, runner.waiting, limits)
        runner.update([job])
        return job, ahead * pace.seconds_per_work

    def work() -> None:
        while runner.has_work():
            runner.update()
            before = model.now
            done = runner.tick()
            pace.count(model.now - before, done or 0)

    for number in range(8):
        arrive(number)
    work()
    arrivals = [arrive(number) for number in range(40)]
    work()
    assert [estimate for _, estimate in arrivals[:8]] == [0.0] * 8
    for job, estimate in arrivals[16:]:
        assert estimate == pytest.approx(job.stream.stats.queue_s, rel=0.3)
