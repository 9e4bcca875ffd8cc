"""What the project aims at, beside what was measured: computed from the results, never from memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Goal:
    """A goal of a kind of device: the smallest or the largest value that is good, and where it is in the results."""

    name: str
    device: str
    bench: str
    find: Callable[[Mapping[str, Any]], float | None]
    via: str | None = None
    at_most: float | None = None
    at_least: float | None = None
    unit: str = ""

    def met(self, value: float) -> bool:
        """Whether a value is good."""
        return (self.at_most is None or value <= self.at_most) and (self.at_least is None or value >= self.at_least)

    @property
    def wanted(self) -> str:
        """The goal in words."""
        return f"≤ {self.at_most:g}{self.unit}" if self.at_most is not None else f"≥ {self.at_least:g}{self.unit}"


def rows(records: Sequence[Record]) -> Iterator[tuple[Record, Goal, float]]:
    """Every goal for which something was measured, with the record and the value."""
    for goal in GOALS:
        for record in records:
            same = record.get("bench") == goal.bench and record.get("device_type") == goal.device
            if not same or (goal.device == "cuda") != (record.get("model") not in ("tiny", "fake")):
                continue
            results = record["results"]
            if goal.via in (None, results.get("via")) and (value := goal.find(results)) is not None:
                yield record, goal, value


def _first_byte(length: str) -> Callable[[Mapping[str, Any]], float | None]:
    def find(results: Mapping[str, Any]) -> float | None:
        return next((1000 * row["ttfb_p50_s"] for row in results["by_length"] if row["text"] == length), None)

    return find


def _engine_first_frame(results: Mapping[str, Any]) -> float | None:
    return 1000 * results["engine_ttfb"]["p50"] if "engine_ttfb" in results else None


def _arrival(results: Mapping[str, Any]) -> float | None:
    waits = [row["wait_p95_s"] for row in results.get("open", []) if row["listeners"] <= _LISTENERS]
    return 1000 * max(waits) if waits and None not in waits else None


def _gone(results: Mapping[str, Any]) -> float | None:
    found: float | None = results.get("hangup", {}).get("gone_after_p99_ms")
    return found


def _ratio(results: Mapping[str, Any]) -> float | None:
    found: float | None = results.get("compare", {}).get("ratio")
    return found


def _of_loads(key: str) -> Callable[[Mapping[str, Any]], float | None]:
    def find(results: Mapping[str, Any]) -> float | None:
        return max((load[key] for load in results["loads"] if load["encoding"] == "pcm"), default=None)

    return find


#: Real-time streams that one large GPU should serve at least.
_LISTENERS = 64

GOALS = (
    Goal("first frame in the engine, one stream, p50", "cuda", "ttfb", _engine_first_frame, at_most=30, unit=" ms"),
    Goal(
        "first byte at the socket, 100 characters, p50", "cuda", "ttfb", _first_byte("medium"), "http", 40, unit=" ms"
    ),
    Goal("real-time factor, one stream", "cuda", "ttfb", lambda results: results["rtf"], "process", 0.01),
    Goal(
        "real-time streams with p95 of the first byte in 400 ms and no stall",
        "cuda",
        "throughput",
        lambda results: results.get("real_time_streams"),
        at_least=_LISTENERS,
    ),
    Goal("wait of an arrival among up to 64 streams, p95", "cuda", "throughput", _arrival, "process", 15, unit=" ms"),
    Goal("work left after a hang-up, p99", "cuda", "throughput", _gone, "process", 20, unit=" ms"),
    Goal("recompiles after the warm-up", "cuda", "throughput", lambda results: results.get("recompiles"), "process", 0),
    Goal("8 streams at once against one at a time, audio per second", "cpu", "throughput", _ratio, at_least=1.5),
    Goal(
        "server alone, of a core per real-time stream",
        "cpu",
        "overhead",
        _of_loads("core_percent_per_stream"),
        at_most=2,
        unit=" %",
    ),
    Goal(
        "server alone, event-loop lag with 64 streams, p99",
        "cpu",
        "overhead",
        _of_loads("lag_p99_at_most_ms"),
        at_most=20,
        unit=" ms",
    ),
)
