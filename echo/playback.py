"""Playback: when does a listener who plays audio as it comes run out of it?"""

from __future__ import annotations

import math


class Playback:
    """A listener's buffer, estimated: what comes is played at once and in real time. Times on the monotonic clock.

    Shared by the pipelines of one stream of audio.
    """

    def __init__(self) -> None:
        self._plays_until = math.inf

    def has_run_dry(self, now: float) -> bool:
        """Whether everything so far has been heard; False before the first audio."""
        return now > self._plays_until

    def add(self, seconds: float, now: float, asked: float | None) -> float:
        """Count audio that is handed over; returns the gap before it, in seconds.

        ``asked`` is when its reader had sent what came before and asked for more: a reader who comes late, because its
        client does not read, makes no gap. None: nothing came before that it would follow without a gap.
        """
        begins = now if math.isinf(self._plays_until) else max(self._plays_until, now)
        gap = 0.0 if asked is None else max(0.0, begins - max(self._plays_until, asked))
        self._plays_until = begins + seconds
        return gap
