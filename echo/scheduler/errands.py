"""Errands: other work for the device thread, such as encoding a voice, done in slices between its ticks."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, InvalidStateError
from typing import Any, TypeVar

T = TypeVar("T")

#: Work that yields wherever it may be interrupted, and returns its result.
Sliced = Generator[None, None, T]


class Errands:
    """Errands at hand, one slice at a time and each in turn, so that a short one does not wait for a long one.

    ``add`` may be called while another thread is in ``advance``.
    """

    def __init__(self) -> None:
        self._open: deque[tuple[Sliced[Any], Future[Any]]] = deque()
        #: Result of the errand whose slice is being done.
        self._current: Future[Any] | None = None

    def __len__(self) -> int:
        return len(self._open)

    def add(self, errand: Sliced[T]) -> Future[T]:
        """Add an errand; the future gets what it returns or raises, and cancelling it ends the errand."""
        done: Future[T] = Future()
        self._open.append((errand, done))
        return done

    def advance(self) -> None:
        """Do a slice of the errand whose turn it is; those that nobody waits for any more are dropped."""
        errand, done = self._open.popleft()
        if done.done():
            errand.close()
            return
        self._current = done
        try:
            next(errand)
        except StopIteration as end:
            _settle(done, end.value, None)
        except Exception as error:
            _settle(done, None, error)
        else:
            self._open.append((errand, done))
        self._current = None

    def abandon(self, error: Exception) -> None:
        """Fail every errand, the current one too, from another thread while a slice never ends."""
        for done in (*[done for _, done in self._open], self._current):
            if done is not None:
                _settle(done, None, error)

    def end_all(self, error: Exception) -> None:
        """Fail every errand."""
        while self._open:
            errand, done = self._open.popleft()
            errand.close()
            _settle(done, None, error)


def _settle(done: Future[Any], result: object, error: Exception | None) -> None:
    """Complete a future that another thread may cancel at this moment."""
    with contextlib.suppress(InvalidStateError):  # the other thread was first
        if done.done() or not done.set_running_or_notify_cancel():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)
