"""The clock by which the server measures silences and stalls."""

from __future__ import annotations

import time

import pytest


class Clock:
    """Can stand, so that no pause of the test is too long for a limit of a second, and jump."""

    def __init__(self) -> None:
        self._ahead_s = 0.0
        self._stands_at: float | None = None

    def monotonic(self) -> float:
        return time.monotonic() + self._ahead_s if self._stands_at is None else self._stands_at

    def stand(self) -> None:
        self._stands_at = self.monotonic()

    def run(self) -> None:
        """Go on from where it has stood."""
        if self._stands_at is not None:
            self._ahead_s = self._stands_at - time.monotonic()
            self._stands_at = None

    def jump(self, seconds: float) -> None:
        if self._stands_at is None:
            self._ahead_s += seconds
        else:
            self._stands_at += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of all connections of this process; it stands until it is told to run."""
    clock = Clock()
    clock.stand()
    monkeypatch.setattr("server.gate.time", clock)
    monkeypatch.setattr("server.connections.time", clock)
    return clock
