"""Asking work in another thread to end, because nobody waits for it any more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stopped(Exception):
    """The work was ended from outside. No client sees this: the last one has left."""


class Stop:
    """Set once, by any thread; whoever works looks at it, or says what is to be done at that moment."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._set = False
        self._acts: list[Callable[[], None]] = []

    def set(self) -> None:
        """Ask for the end. The acts run in this thread and must not block."""
        with self._lock:
            self._set = True
            acts = list(self._acts)
        for act in acts:
            act()

    def check(self) -> None:
        """Raise Stopped if the end has been asked for."""
        if self._set:
            raise Stopped

    @contextmanager
    def calling(self, act: Callable[[], None]) -> Iterator[None]:
        """Have ``act`` called when the end is asked for within the block; raises Stopped if it has been already."""
        with self._lock:
            self.check()
            self._acts.append(act)
        try:
            yield
        finally:
            with self._lock:
                self._acts.remove(act)
