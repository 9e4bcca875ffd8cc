"""The arithmetic of the benchmarks: percentiles, starved players, random arrivals. Pure functions."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

#: A player starts this long after the first byte: what a client's jitter buffer holds.
CLIENT_BUFFER_S = 0.1


class Arrival(NamedTuple):
    """A piece of audio as it reached a client: when (seconds of any one clock), and how much of it (seconds)."""

    at: float
    audio_s: float


@dataclass(frozen=True, slots=True)
class Starved:
    """How often a player ran dry before the end of its stream, and for how long in all."""

    times: int = 0
    seconds: float = 0.0


def percentiles(values: Sequence[float], digits: int = 4) -> dict[str, float | None]:
    """Return p50, p95 and p99 (linear between neighbours), rounded; None where there is no value."""
    if not values:
        return {"p50": None, "p95": None, "p99": None}
    found = np.percentile(np.asarray(values, float), (50, 95, 99))
    return {name: round(float(value), digits) for name, value in zip(("p50", "p95", "p99"), found, strict=True)}


def starved(arrivals: Sequence[Arrival], buffer_s: float = CLIENT_BUFFER_S) -> Starved:
    """Play a stream that arrives as given, in order, and count how often the player runs dry.

    It starts ``buffer_s`` after the first piece, plays in real time, and goes on as soon as more arrives.
    """
    if not arrivals:
        return Starved()
    times, seconds = 0, 0.0
    played_out = arrivals[0].at + buffer_s
    for piece in arrivals:
        if piece.at > played_out:
            times += 1
            seconds += piece.at - played_out
            played_out = piece.at
        played_out += piece.audio_s
    return Starved(times, seconds)


def audio_within(arrivals: Sequence[Arrival], start: float, end: float) -> float:
    """Seconds of audio that arrived from ``start`` to ``end``."""
    return sum(piece.audio_s for piece in arrivals if start <= piece.at <= end)


def poisson_times(rate: float, seconds: float, seed: int) -> list[float]:
    """Times in 0..``seconds`` of a Poisson process of ``rate`` per second; the same for the same seed."""
    draw = random.Random(seed)
    times: list[float] = []
    now = draw.expovariate(rate)
    while now < seconds:
        times.append(now)
        now += draw.expovariate(rate)
    return times


def histogram_quantile(buckets: Mapping[float, float], quantile: float) -> float | None:
    """Upper border of the bucket that holds a quantile: at most this much, never an understatement.

    ``buckets`` are cumulative counts by upper border, as Prometheus writes them; None when they are empty.
    """
    total = max(buckets.values(), default=0.0)
    if not total:
        return None
    return min(border for border, count in buckets.items() if count >= quantile * total)
