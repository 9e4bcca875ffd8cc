"""Whose turn it is, what may be sent, and the estimate of the wait."""

from __future__ import annotations

import pytest

from echo.engines.remote.jobs import Job, JobQueue, Pace
from echo.stream import FrameStream
from echo.types import AudioFrame, Listener
from tests.unit.engines.remote.processes import clip, utterance

RATE = 1000


def job(number: int, arrived: float = 0.0, listener: Listener | None = None, estimate_s: float = 10.0) -> Job:
    spoken = utterance("one", listener=listener or Listener(), estimate_s=estimate_s)
    return Job(id=number, utterance=spoken, stream=FrameStream(), arrived=arrived)


def test_the_listener_whose_audio_runs_out_first_comes_first() -> None:
    far = job(1, listener=Listener(started=0.0, produced_s=50.0))
    near = job(2, arrived=40.0, listener=Listener(started=0.0, produced_s=40.5))
    first, second = job(3, arrived=40.0), job(4, arrived=40.0)
    queue = JobQueue(waiting=[far, second, first, near])
    assert [queue.take().id for _ in range(4)] == [2, 3, 4, 1]


def test_waiting_jobs_that_nobody_listens_to_are_dropped() -> None:
    kept, gone = job(1), job(2)
    queue = JobQueue(waiting=[kept, gone])
    gone.stream.cancel()
    assert queue.drop_cancelled() == {gone}
    assert queue.waiting == [kept]


def test_credit_follows_the_listener() -> None:
    one = job(1)
    one.begin(0.0, 100)
    one.receive(100, RATE, 1.0)
    one.stream.put(AudioFrame(clip()[:100], RATE))
    assert one.refill(100, 10, 2.0) == 0
    assert one.working_s(2.0) == 1.0  # the second in which it had to wait does not count
    next(one.stream)
    assert one.refill(100, 10, 3.0) == 100
    assert one.granted == 200
    assert one.working_s(5.0) == 3.0


def test_the_wait_is_what_is_ahead_at_the_measured_pace() -> None:
    pace = Pace()
    assert pace.seconds_per_second == 0.0
    pace.count(5.0, 10.0)
    assert pace.seconds_per_second == 0.5
    pace.count(30.0, 20.0)
    assert 0.5 < pace.seconds_per_second < 1.5
    queue = JobQueue(waiting=[job(2, estimate_s=10.0)])
    active = job(1, estimate_s=20.0)
    active.begin(0.0, 10**6)
    active.receive(5 * RATE, RATE, 1.0)
    queue.active[1] = active
    assert queue.wait_s(1, RATE, 0.5) == pytest.approx(0.5 * (15 + 10))
    assert queue.wait_s(2, RATE, 0.5) == pytest.approx(0.5 * (15 + 10) / 2)
    assert queue.wait_s(3, RATE, 0.5) == 0.0  # there is room
