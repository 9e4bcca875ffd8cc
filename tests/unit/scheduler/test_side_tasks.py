"""Side tasks: round-robin, a slice at a time, and dropped when nobody waits for them any more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError

import pytest

from echo.scheduler.loop import Scheduler
from echo.scheduler.policy import Limits
from echo.scheduler.side_tasks import SideTasks
from tests.unit.scheduler.toy_model import ToyModel


def counting(log: list[str], name: str, slices: int) -> Generator[None, None, str]:
    try:
        for number in range(slices):
            log.append(f"{name}{number}")
            yield
        return name
    finally:
        log.append(f"{name} ends")


def test_they_take_turns() -> None:
    tasks, log = SideTasks(), []  # type: ignore[var-annotated]
    first, second = tasks.add(counting(log, "a", 3)), tasks.add(counting(log, "b", 1))
    while tasks:
        tasks.run_slice()
    assert log == ["a0", "b0", "a1", "b ends", "a2", "a ends"]
    assert (first.result(0), second.result(0)) == ("a", "b")


@pytest.mark.parametrize("begun", [False, True])
def test_a_cancelled_one_does_no_further_slice(begun: bool) -> None:
    tasks, log = SideTasks(), []  # type: ignore[var-annotated]
    first, second = tasks.add(counting(log, "a", 100)), tasks.add(counting(log, "b", 2))
    if begun:
        tasks.run_slice()
    assert first.cancel()
    while tasks:
        tasks.run_slice()
    assert "a1" not in log
    assert log.count("a ends") == (1 if begun else 0)
    assert second.result(0) == "b"
    with pytest.raises(CancelledError):
        first.result(0)


def test_one_that_is_cancelled_in_its_last_slice_harms_nobody() -> None:
    tasks = SideTasks()

    def work() -> Generator[None, None, str]:
        done.cancel()
        return "too late"
        yield

    done = tasks.add(work())
    tasks.run_slice()
    assert done.cancelled()
    tasks.fail_all(RuntimeError("closing"))


def test_the_device_thread_drops_a_cancelled_task_and_goes_on() -> None:
    device = Scheduler(ToyModel(), sample_rate=44_100, limits=Limits(max_jobs=1))
    first_slice, ended = threading.Event(), threading.Event()

    def endless() -> Generator[None, None, None]:
        try:
            while True:
                first_slice.set()
                yield
        finally:
            ended.set()

    try:
        task = device.submit_sliced(endless())
        assert first_slice.wait(30)
        assert task.cancel()
        assert ended.wait(30)
        assert device.run(lambda: 7) == 7
    finally:
        device.close()
    refused: Callable[[], object] = device.submit_sliced(endless()).result
    with pytest.raises(Exception, match="shutting down"):
        refused()
