"""How often somebody may try a wrong API key."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from echo.errors import Overloaded

#: Failures are forgiven evenly over this time, in seconds.
_WINDOW_S = 60.0
#: Addresses that are remembered; those that were silent for longest are forgotten first.
_MOST_ADDRESSES = 4096
#: Keys that are remembered to have worked from one address.
_MOST_KEYS = 16


@dataclass(slots=True)
class _Record:
    failures: float = 0.0
    at: float = 0.0
    known: OrderedDict[bytes, None] = field(default_factory=OrderedDict)


class FailedKeys:
    """Counts wrong keys by address: at most ``limit`` in a minute (0 = any number).

    While an address has too many, only keys that have worked from it before are looked at: whoever shares it with
    somebody who guesses, behind a router or a proxy, is not locked out.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._records: OrderedDict[str, _Record] = OrderedDict()

    def open_to(self, address: str, key: bytes) -> bool:
        """Tell whether this key may be looked at now; the key itself is a right one."""
        record = self._current(address)
        return not self._limit or record.failures <= self._limit - 1 or key in record.known

    def failed(self, address: str) -> None:
        """Count a wrong key; raises Overloaded when there have been too many."""
        if not self._limit:
            return
        record = self._current(address)
        if record.failures > self._limit - 1:
            wait = (record.failures - self._limit + 1) * _WINDOW_S / self._limit
            raise Overloaded("Too many wrong API keys from your address.", code="too_many_failures", retry_after_s=wait)
        record.failures += 1

    def succeeded(self, address: str, key: bytes) -> None:
        """Remember that a key works."""
        known = self._current(address).known
        known[key] = None
        known.move_to_end(key)
        while len(known) > _MOST_KEYS:
            known.popitem(last=False)

    def _current(self, address: str) -> _Record:
        """Return the record of an address, with the failures forgiven that lie back far enough."""
        now = self._clock()
        record = self._records.setdefault(address, _Record(at=now))
        record.failures = max(0.0, record.failures - (now - record.at) * self._limit / _WINDOW_S)
        record.at = now
        self._records.move_to_end(address)
        while len(self._records) > _MOST_ADDRESSES:
            self._records.popitem(last=False)
        return record
