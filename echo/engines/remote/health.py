"""When an engine's process counts as stuck, and when the next one starts: pure."""

from __future__ import annotations

from dataclasses import dataclass

from echo.engines.remote.messages import Pong


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteRules:
    """Times, in seconds.

    credit      audio that may be ahead of what the listener has taken (as with Echo-TTS)
    backoff     wait before the first restart; doubled with each, up to ``backoff_max``, until ``steady`` have gone well
    ping, pong  between two questions whether the process lives; longest wait for the answer
    stall       longest time in which a job makes no step
    patience    longest time that a request waits for a process that is down; then it is refused
    idle_stop   without work, after which the process is stopped; 0: it stays
    grace       that the process gets to end when the server does
    """

    credit: float = 60.0
    backoff: float = 1.0
    backoff_max: float = 60.0
    steady: float = 300.0
    ping: float = 5.0
    pong: float = 30.0
    stall: float = 120.0
    patience: float = 60.0
    idle_stop: float = 0.0
    grace: float = 5.0


class Pulse:
    """Signs of life of one process. Times are of the clock that the caller reads."""

    def __init__(self, rules: RemoteRules, now: float) -> None:
        self._rules = rules
        #: When it has last got on, or was given work after it had none.
        self.moved_at = now
        self._pinged_at = now
        self._unanswered_since: float | None = None
        self._pings = self._steps = 0

    def moved(self, now: float) -> None:
        """Something has come of its work."""
        self.moved_at = now

    def answered(self, pong: Pong, now: float) -> None:
        """It has answered a ping."""
        if pong.n == self._pings:
            self._unanswered_since = None
        if pong.steps != self._steps:
            self._steps, self.moved_at = pong.steps, now

    def stood_still(self, seconds: float) -> None:
        """Leave out a time in which the caller did not look, and so heard of nothing."""
        self.moved_at += seconds
        self._pinged_at += seconds
        if self._unanswered_since is not None:
            self._unanswered_since += seconds

    def fault(self, now: float, *, busy: bool) -> str | None:
        """Return why it has to be killed; None where it has not."""
        if self._unanswered_since is not None and now - self._unanswered_since > self._rules.pong:
            return f"it has not answered for {now - self._unanswered_since:.0f} s"
        if busy and now - self.moved_at > self._rules.stall:
            return f"it has made no step for {now - self.moved_at:.0f} s"
        return None

    def next_ping(self, now: float) -> int | None:
        """Return the number of the ping that is due, None where none is."""
        if self._unanswered_since is not None or now - self._pinged_at < self._rules.ping:
            return None
        self._pings += 1
        self._pinged_at = self._unanswered_since = now
        return self._pings


class Backoff:
    """How long to wait before a process is started again."""

    def __init__(self, rules: RemoteRules) -> None:
        self._rules = rules
        self._failures = 0

    def next_wait(self, ready_s: float) -> float:
        """Return the wait after one more failure, of a process that was ready for ``ready_s``."""
        if ready_s >= self._rules.steady:
            self._failures = 0
        wait = min(self._rules.backoff_max, self._rules.backoff * 2.0 ** min(self._failures, 16))
        self._failures += 1
        return wait
