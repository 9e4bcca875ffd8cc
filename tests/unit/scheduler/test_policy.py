import math
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echo.scheduler.policy import Limits, Phase, activate, next_work, preempt

LIMITS = Limits(max_jobs=8, max_rows=6, max_row_latents=1000, max_decode=64, max_unread_s=10)


@dataclass
class Plain:
    order: int
    deadline: float = 0.0
    phase: Phase = Phase.STEP
    size: int = 32
    rows: int = 3
    unread_s: float = 0.0
    nbytes: int = 0


def test_the_earliest_due_decides_what_is_done() -> None:
    late, early = Plain(0, deadline=5.0, phase=Phase.STEP), Plain(1, deadline=1.0, phase=Phase.DECODE)
    work = next_work([late, early], LIMITS)
    assert work is not None
    assert (work.phase, work.jobs) == (Phase.DECODE, (early,))


def test_equal_blocks_share_a_tick_as_far_as_rows_allow() -> None:
    jobs = [Plain(i, deadline=float(-i)) for i in range(4)]
    work = next_work(jobs, LIMITS)
    assert work is not None
    assert [job.order for job in work.jobs] == [3, 2]  # six rows: the two most urgent


def test_blocks_of_another_size_wait_for_their_own_tick_unless_sizes_mix() -> None:
    jobs = [Plain(0, deadline=0, rows=2), Plain(1, deadline=1, size=64, rows=2), Plain(2, deadline=2, rows=2)]
    work = next_work(jobs, LIMITS)
    assert work is not None
    assert [job.order for job in work.jobs] == [0, 2]
    mixed = next_work(jobs, replace(LIMITS, mix_sizes=True))
    assert mixed is not None
    assert [job.order for job in mixed.jobs] == [0, 1, 2]
    full = next_work(jobs, replace(LIMITS, mix_sizes=True, max_row_latents=200))
    assert full is not None
    assert [job.order for job in full.jobs] == [0, 1]


def test_only_equal_sizes_are_decoded_together() -> None:
    jobs = [Plain(0, phase=Phase.DECODE), Plain(1, phase=Phase.DECODE, size=64)]
    work = next_work(jobs, replace(LIMITS, mix_sizes=True))
    assert work is not None
    assert [job.order for job in work.jobs] == [0]


def test_a_full_device_is_not_given_more() -> None:
    work = next_work([Plain(0, size=300), Plain(1, size=300)], LIMITS)  # 900 row-latents each
    assert work is not None
    assert len(work.jobs) == 1


def test_one_job_is_worked_on_however_large_it_is() -> None:
    assert next_work([Plain(0, size=10_000, rows=50)], LIMITS) is not None


def test_decoding_is_batched_in_slices() -> None:
    work = next_work([Plain(i, phase=Phase.DECODE) for i in range(5)], LIMITS)
    assert work is not None
    assert len(work.jobs) == LIMITS.max_decode // work.jobs[0].size


def test_preparing_is_done_one_by_one() -> None:
    work = next_work([Plain(i, phase=Phase.PREPARE) for i in range(3)], LIMITS)
    assert work is not None
    assert len(work.jobs) == 1


def test_an_arrival_is_prepared_before_the_next_step_but_not_two_in_a_row() -> None:
    jobs = [Plain(0, deadline=0), Plain(1, deadline=5, phase=Phase.PREPARE), Plain(2, deadline=6, phase=Phase.PREPARE)]
    first = next_work(jobs, LIMITS, after=Phase.STEP)
    second = next_work(jobs, LIMITS, after=Phase.PREPARE)
    assert first is not None
    assert second is not None
    assert [job.order for job in first.jobs] == [1]
    assert [job.order for job in second.jobs] == [0]


def test_jobs_that_wait_for_the_detector_or_a_reader_are_skipped() -> None:
    assert next_work([Plain(0, phase=Phase.AWAIT_VAD), Plain(1, unread_s=11.0)], LIMITS) is None
    assert next_work([], LIMITS) is None


def test_ties_go_by_arrival() -> None:
    work = next_work([Plain(7, phase=Phase.PREPARE), Plain(3, phase=Phase.PREPARE)], LIMITS)
    assert work is not None
    assert work.jobs[0].order == 3


def test_only_as_many_become_active_as_there_is_room() -> None:
    waiting = [Plain(0, deadline=3.0), Plain(1, deadline=1.0), Plain(2, deadline=2.0)]
    active = [Plain(i) for i in range(10, 18)]
    assert [job.order for job in activate(waiting, active[:6], LIMITS)] == [1, 2]
    assert activate(waiting, active, LIMITS) == []


def test_only_as_many_become_active_as_there_is_memory_for() -> None:
    limits = Limits(max_jobs=8, max_bytes=100)
    waiting = [Plain(0, nbytes=40), Plain(1, nbytes=40), Plain(2, nbytes=40)]
    assert [job.order for job in activate(waiting, [], limits)] == [0, 1]
    assert [job.order for job in activate(waiting, [Plain(9, nbytes=60)], limits)] == [0]


def test_nobody_overtakes_a_large_one_that_waits_for_memory() -> None:
    limits = Limits(max_jobs=8, max_bytes=100)
    large, small = Plain(0, deadline=1.0, nbytes=90), Plain(1, deadline=2.0, nbytes=1)
    assert activate([large, small], [Plain(9, nbytes=50)], limits) == []
    assert activate([large, small], [], limits) == [large, small]


jobs = st.lists(
    st.builds(
        Plain,
        order=st.integers(0, 10_000),
        deadline=st.floats(-100, 100),
        phase=st.sampled_from(Phase),
        size=st.sampled_from([32, 128, 480]),
        rows=st.integers(1, 3),
        unread_s=st.sampled_from([0.0, 5.0, 50.0]),
    ),
    max_size=20,
    unique_by=lambda job: job.order,
)


@pytest.mark.slow
@given(jobs)
@settings(deadline=None, derandomize=True, max_examples=300)
def test_whatever_waits_the_choice_keeps_its_promises(jobs: list[Plain]) -> None:
    ready = [job for job in jobs if job.phase is not Phase.AWAIT_VAD and job.unread_s <= LIMITS.max_unread_s]
    work = next_work(jobs, LIMITS)
    if not ready:
        assert work is None
        return
    assert work is not None
    assert len({job.order for job in work.jobs}) == len(work.jobs)  # nobody twice
    assert all(job in ready and job.phase is work.phase for job in work.jobs)
    assert len({job.size for job in work.jobs}) == 1
    rivals = [job for job in ready if job.phase is work.phase or work.phase is not Phase.PREPARE]
    assert work.jobs[0] == min(rivals, key=lambda job: (job.deadline, job.order))
    if len(work.jobs) > 1 and work.phase is Phase.STEP:
        assert sum(job.rows for job in work.jobs) <= LIMITS.max_rows


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 4), st.sampled_from([32, 64])), min_size=1, max_size=12))
@settings(deadline=None, derandomize=True, max_examples=100)
def test_nobody_starves(arrivals: list[tuple[int, int, int]]) -> None:
    """Jobs (tick of arrival, steps, size) that keep arriving all end, within as many ticks as there are steps."""
    limits = Limits(max_jobs=3, max_rows=6)
    left = {i: steps for i, (_, steps, _) in enumerate(arrivals)}
    active: list[Plain] = []
    budget = 31 + sum(left.values())
    for tick in range(budget):
        waiting = [
            Plain(i, deadline=float(arrivals[i][0]), size=arrivals[i][2])
            for i, steps in left.items()
            if steps and arrivals[i][0] <= tick and i not in {job.order for job in active}
        ]
        active += activate(waiting, active, limits)
        work = next_work(active, limits)
        for job in work.jobs if work else ():
            left[job.order] -= 1
        active = [job for job in active if left[job.order]]
    assert not any(left.values())


# -- work in the background


def background(order: int, phase: Phase = Phase.STEP) -> Plain:
    return Plain(order, deadline=math.inf, phase=phase)


def test_the_background_gets_the_device_only_when_nobody_else_needs_it() -> None:
    alone = next_work([background(0), background(1)], LIMITS)
    assert alone is not None
    assert [job.order for job in alone.jobs] == [0, 1]
    shared = next_work([background(0, Phase.PREPARE), background(1), Plain(2, deadline=9.0)], LIMITS)
    assert shared is not None
    assert [job.order for job in shared.jobs] == [2]
    listener_has_enough = next_work([background(0), Plain(1, unread_s=11.0)], LIMITS)
    assert listener_has_enough is not None
    assert [job.order for job in listener_has_enough.jobs] == [0]


def test_the_background_makes_room_for_those_who_wait() -> None:
    hidden, heard = background(0), Plain(1)
    assert preempt([Plain(2)], [hidden, heard]) == [hidden]
    assert preempt([background(2)], [hidden, heard]) == []
    assert preempt([], [hidden]) == []
