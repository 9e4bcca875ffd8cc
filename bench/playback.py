"""What a listener notices: when audio arrived, gaps while it is played, percentiles. Needs numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

#: A player starts this long after the first byte: a client's jitter buffer.
CLIENT_BUFFER_S = 0.1


class Arrival(NamedTuple):
    """A piece of audio as a client received it: when (``time.perf_counter()``), and how many seconds of audio."""

    at: float
    audio_s: float


def percentiles(values: Sequence[float], digits: int = 4) -> dict[str, float | None]:
    """Return p50, p95 and p99 (linear between neighbours), rounded; None where there is no value."""
    if not values:
        return {"p50": None, "p95": None, "p99": None}
    found = np.percentile(np.asarray(values, float), (50, 95, 99))
    return {name: round(float(value), digits) for name, value in zip(("p50", "p95", "p99"), found, strict=True)}


@dataclass(frozen=True, slots=True)
class Underruns:
    """How often a player had nothing left to play before the end of its stream, and for how long in total."""

    count: int = 0
    seconds: float = 0.0


def underruns(arrivals: Sequence[Arrival], buffer_s: float = CLIENT_BUFFER_S) -> Underruns:
    """Count the buffer underruns of a player that receives these pieces.

    It starts ``buffer_s`` after the first piece, plays in real time, and resumes as soon as more arrives.
    """
    if not arrivals:
        return Underruns()
    count, seconds = 0, 0.0
    played_until = arrivals[0].at + buffer_s
    for piece in arrivals:
        if piece.at > played_until:
            count += 1
            seconds += piece.at - played_until
            played_until = piece.at
        played_until += piece.audio_s
    return Underruns(count, seconds)
