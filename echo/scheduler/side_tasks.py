"""Other device work, such as encoding a voice, run in slices between the scheduler's ticks."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, InvalidStateError
from typing import Any, TypeVar

T = TypeVar("T")

#: A task that yields wherever it may be interrupted, and returns its result.
Sliced = Generator[None, None, T]


class SideTasks:
    """Other device work, run in slices, round-robin, so that a short task does not wait for a long one.

    ``add`` may be called while another thread is in ``run_slice``.
    """

    def __init__(self) -> None:
        self._queue: deque[tuple[Sliced[Any], Future[Any]]] = deque()
        #: Result of the task whose slice is running.
        self._current: Future[Any] | None = None

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, task: Sliced[T]) -> Future[T]:
        """Add a task. The future gets what it returns or raises; cancelling the future ends the task."""
        result: Future[T] = Future()
        self._queue.append((task, result))
        return result

    def run_slice(self, told: Callable[[Exception], Exception] = lambda error: error) -> Exception | None:
        """Run one slice of the next task; a cancelled task is closed instead.

        Where the task raises, its future gets what ``told`` makes of the error, which is returned.
        """
        task, result = self._queue.popleft()
        if result.done():
            task.close()
            return None
        failure = None
        self._current = result
        try:
            next(task)
        except StopIteration as end:
            _complete(result, end.value, None)
        except Exception as error:
            failure = told(error)
            _complete(result, None, failure)
        else:
            self._queue.append((task, result))
        self._current = None
        return failure

    def abandon(self, error: Exception) -> None:
        """Fail every task, also the running one; for another thread, when a slice never ends."""
        for result in (*[result for _, result in self._queue], self._current):
            if result is not None:
                _complete(result, None, error)

    def fail_all(self, error: Exception) -> None:
        """Close every task and fail its future."""
        while self._queue:
            task, result = self._queue.popleft()
            task.close()
            _complete(result, None, error)


def _complete(future: Future[Any], result: object, error: Exception | None) -> None:
    """Complete a future that another thread may cancel at the same time."""
    with contextlib.suppress(InvalidStateError):  # the other thread was first
        if future.done() or not future.set_running_or_notify_cancel():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)
