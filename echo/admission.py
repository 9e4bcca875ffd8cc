"""Admission: how many requests may be open at once, how long one may have to wait, and what a refused one is told."""

from __future__ import annotations

import threading
from copy import copy

from echo.errors import NotReady, Overloaded

#: A client is told to come back after no less and no more than this, in seconds.
_SOONEST_S, _LATEST_S = 1.0, 60.0


class Admission:
    """Counts open requests; refuses beyond ``limit``, and what would wait longer than ``max_wait_s`` (0 = never mind).

    How long a request would wait is the engine's estimate, and what a refused one is told follows from it.
    Thread-safe.
    """

    def __init__(self, limit: int, *, max_wait_s: float = 0.0) -> None:
        self.limit = limit
        self.max_wait_s = max_wait_s
        self._open = 0
        self._refusal: NotReady | None = None
        #: Re-entrant: ``close`` may come from a signal handler that interrupts ``enter``.
        self._lock = threading.RLock()

    @property
    def open(self) -> int:
        """Requests that hold a slot now."""
        return self._open

    def enter(self, wait_s: float = 0.0) -> Ticket:
        """Take a slot for a request that will wait ``wait_s``.

        Raises Overloaded with a retry hint, or what ``close`` was told.
        """
        with self._lock:
            if self._refusal is not None:
                raise copy(self._refusal)
            if self._open >= self.limit:
                raise Overloaded(
                    f"The server is busy: {self._open} requests are open, {self.limit} are allowed.",
                    retry_after_s=_hint(wait_s),
                )
            self.check_wait(wait_s)
            self._open += 1
        return Ticket(self)

    def check_wait(self, wait_s: float) -> None:
        """Raise Overloaded with a retry hint when a wait is too long."""
        if 0 < self.max_wait_s < wait_s:
            raise Overloaded(
                f"The server is busy: a request would wait for about {wait_s:.0f} s, "
                f"{self.max_wait_s:g} s are allowed.",
                retry_after_s=_hint(wait_s - self.max_wait_s),
            )

    def close(self, reason: NotReady | None = None) -> None:
        """Refuse everything from now on; open requests go on. Without a reason for a shutdown; the first one stays."""
        with self._lock:
            self._refusal = self._refusal or reason or NotReady("The server is shutting down.", retry_after_s=5.0)

    def _leave(self) -> None:
        with self._lock:
            self._open -= 1


class Ticket:
    """One slot; released exactly once, however often ``release`` is called."""

    def __init__(self, admission: Admission) -> None:
        self._admission: Admission | None = admission

    def release(self) -> None:
        """Give the slot back."""
        admission, self._admission = self._admission, None
        if admission is not None:
            admission._leave()


def _hint(wait_s: float) -> float:
    return min(max(wait_s, _SOONEST_S), _LATEST_S)
