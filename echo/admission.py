"""Admission control: limits on open requests, in all and per client, and on the expected wait."""

from __future__ import annotations

import math
import threading
from collections import Counter
from copy import copy

from echo.errors import NotReady, Overloaded

#: Bounds of Retry-After, in seconds.
_SOONEST_S, _LATEST_S = 1.0, 60.0


class Admission:
    """Counts open requests and refuses those beyond its limits. Thread-safe.

    limit         open requests in all
    max_wait_s    longest expected wait, by the engine's estimate, which also sets Retry-After; 0 = any
    client_share  part of ``limit`` that one client may hold, rounded up, at least one request; it does not hold for
                  requests without a client
    """

    def __init__(self, limit: int, *, max_wait_s: float = 0.0, client_share: float = 1.0) -> None:
        self.limit = limit
        self.client_limit = max(1, math.ceil(limit * client_share))
        self.max_wait_s = max_wait_s
        self._open = 0
        self._by_client: Counter[str] = Counter()
        self._refusal: NotReady | None = None
        #: Re-entrant: ``close`` may come from a signal handler that interrupts ``enter``.
        self._lock = threading.RLock()

    @property
    def open(self) -> int:
        """Requests that hold a slot now."""
        return self._open

    def enter(self, wait_s: float = 0.0, client: str = "") -> Ticket:
        """Take a slot for a client's request that will wait ``wait_s``.

        Raises Overloaded with a retry hint, or the reason given to ``close``.
        """
        with self._lock:
            if self._refusal is not None:
                raise copy(self._refusal)
            if self._open >= self.limit:
                raise Overloaded(
                    f"The server is busy: {self._open} requests are open, {self.limit} are allowed.",
                    retry_after_s=_hint(wait_s),
                )
            if client and self._by_client[client] >= self.client_limit:
                raise Overloaded(
                    f"You have {self._by_client[client]} requests open, {self.client_limit} are allowed.",
                    retry_after_s=_hint(wait_s),
                )
            self.check_wait(wait_s)
            self._open += 1
            self._by_client[client] += 1
        return Ticket(self, client)

    def check_wait(self, wait_s: float) -> None:
        """Raise Overloaded with a retry hint when a wait is too long."""
        if 0 < self.max_wait_s < wait_s:
            raise Overloaded(
                f"The server is busy: a request would wait for about {wait_s:.0f} s, "
                f"{self.max_wait_s:g} s are allowed.",
                retry_after_s=_hint(wait_s - self.max_wait_s),
            )

    def close(self, reason: NotReady | None = None) -> None:
        """Refuse new requests from now on, by default for a shutdown; open ones go on. The first reason stays."""
        with self._lock:
            self._refusal = self._refusal or reason or NotReady("The server is shutting down.", retry_after_s=5.0)

    def _leave(self, client: str) -> None:
        with self._lock:
            self._open -= 1
            self._by_client[client] -= 1
            if not self._by_client[client]:
                del self._by_client[client]


class Ticket:
    """One slot; released exactly once, however often ``release`` is called."""

    def __init__(self, admission: Admission, client: str) -> None:
        self._admission: Admission | None = admission
        self._client = client

    def release(self) -> None:
        """Give the slot back."""
        admission, self._admission = self._admission, None
        if admission is not None:
            admission._leave(self._client)


def _hint(wait_s: float) -> float:
    return min(max(wait_s, _SOONEST_S), _LATEST_S)
