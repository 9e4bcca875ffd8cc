"""Admission: how many requests may be open at once, and what a refused one is told."""

from __future__ import annotations

import threading
import time

from echo.errors import NotReady, Overloaded


class Admission:
    """Counts open requests; refuses beyond ``limit`` before any device work.

    The retry hint is the running mean of how long a slot was held, shared by ``concurrent`` device slots.
    Thread-safe.
    """

    #: Weight of the newest request in the running mean: follows a change of load within about ten requests.
    _MEMORY = 0.1

    def __init__(self, *, concurrent: int, queue: int) -> None:
        self.limit = concurrent + queue
        self._concurrent = concurrent
        self._open = 0
        self._held_s = 1.0
        self._closing = False
        #: Re-entrant: ``close`` may come from a signal handler that interrupts ``enter``.
        self._lock = threading.RLock()

    @property
    def open(self) -> int:
        """Requests that hold a slot now."""
        return self._open

    def enter(self) -> Ticket:
        """Take a slot; raises Overloaded with a retry hint, or NotReady while shutting down."""
        with self._lock:
            if self._closing:
                raise NotReady("The server is shutting down.", retry_after_s=5.0)
            if self._open >= self.limit:
                waiting = self._open - self._concurrent + 1
                hint = max(1.0, self._held_s * waiting / self._concurrent)
                raise Overloaded(
                    f"The server is busy: {self._open} requests are open, {self.limit} are allowed.",
                    retry_after_s=min(hint, 60.0),
                )
            self._open += 1
        return Ticket(self)

    def close(self) -> None:
        """Refuse everything from now on (graceful shutdown); open requests go on."""
        with self._lock:
            self._closing = True

    def _leave(self, held_s: float) -> None:
        with self._lock:
            self._open -= 1
            self._held_s += self._MEMORY * (held_s - self._held_s)


class Ticket:
    """One slot; released exactly once, however often ``release`` is called."""

    def __init__(self, admission: Admission) -> None:
        self._admission: Admission | None = admission
        self._since = time.monotonic()

    def release(self) -> None:
        """Give the slot back."""
        admission, self._admission = self._admission, None
        if admission is not None:
            admission._leave(time.monotonic() - self._since)
