"""Many listeners at once: closed loop, open loop, eight against one, batched against lock-step, hang-ups.

python -m bench.throughput                                    # the embedded model, in this process
python -m bench.throughput --http --clients 1,8,64
python -m bench.throughput --clients 8 --seconds 4 --parts closed,compare
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.compare import compare, lock_step
from bench.engines import device_of
from bench.loadgen import Load, closed_loop, hang_ups, hang_ups_at_socket, open_loop, summary
from bench.options import parser, result_path, settings_from
from bench.record import make_record, write_record
from bench.show import columns
from bench.stats import CLIENT_BUFFER_S, percentiles
from bench.targets import HttpServer, Service, Target, open_target
from bench.voice import speaking_with
from echo.settings import Settings

PARTS = ("closed", "open", "compare", "lockstep", "hangup")
CLIENTS = (1, 2, 4, 8, 16, 32, 64, 128)
#: Shares of what the closed loop reached that the open loop asks for where its listeners are not given.
_SHARES = (0.5, 0.8, 1.1)
#: Streams at a time when hanging up.
_CLIENTS = 8
#: So many may wait, and as long as they like, that none is refused: what is measured is how long they do.
QUEUE = {"max_queue": 1000, "max_queue_wait_s": 0.0}
#: Streams still open this long after a load are hung up.
_HEAR_OUT_S = 120.0
#: A listener should hear something within this time (p95), and never a gap: that is a real-time stream.
REAL_TIME_TTFB_S = 0.4
#: The columns shown on the terminal.
_COLUMNS = (
    "clients",
    "listeners",
    "requests",
    "refused",
    "wait_p95_s",
    "ttfb_p50_s",
    "ttfb_p95_s",
    "ttfb_p99_s",
    "streams_with_underruns",
    "stalled_s",
    "audio_s_per_s",
    "lag_p99_ms",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to measure: a load per entry of ``clients`` and of ``listeners`` (None: shares of what was reached)."""

    parts: Sequence[str] = PARTS
    clients: Sequence[int] = CLIENTS
    listeners: Sequence[float] | None = None
    seconds: float = 12.0
    rounds: int = 3
    requests: int = 24
    hang_ups: int = 5
    hear_out_s: float = _HEAR_OUT_S
    #: Seconds after which no further load of the loops is begun; the comparisons come before them.
    budget_s: float = float("inf")


def add_options(options: argparse.ArgumentParser) -> None:
    """Add what a plan is made of."""
    options.add_argument("--parts", type=_names, default=PARTS, help=f"some of {','.join(PARTS)}")
    options.add_argument("--clients", type=_integers, default=CLIENTS, help="clients of the closed loop")
    options.add_argument("--listeners", type=_floats, help="real-time listeners of the open loop, on average")
    options.add_argument("--seconds", type=float, default=12.0, help="of every load; open streams are heard out")
    options.add_argument("--hear-out", type=float, default=_HEAR_OUT_S, help="seconds that streams get for that")
    options.add_argument("--rounds", type=int, default=3, help="of the comparisons, in turns")
    options.add_argument("--compare-requests", type=int, default=24, help="requests per round of the comparisons")
    options.add_argument("--hang-ups", type=int, default=5, help="rounds of hang-ups")
    options.add_argument("--budget", type=float, default=float("inf"), help="seconds after which no load is begun")


def plan_from(given: argparse.Namespace) -> Plan:
    """The plan of these options."""
    return Plan(
        parts=given.parts,
        clients=given.clients,
        listeners=given.listeners,
        seconds=given.seconds,
        rounds=given.rounds,
        requests=given.compare_requests,
        hang_ups=given.hang_ups,
        hear_out_s=given.hear_out,
        budget_s=given.budget,
    )


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__)
    options.add_argument("--http", action="store_true", help="measure the real server at its socket")
    add_options(options)
    given = options.parse_args()
    with speaking_with(settings_from(given, **QUEUE), given.voice_seconds) as settings:
        record = asyncio.run(measure(settings, plan_from(given), http=given.http))
    show(record["results"])
    if path := result_path(given, "throughput", record["device_type"], "-http" if given.http else ""):
        write_record(path, record)


async def measure(settings: Settings, plan: Plan, *, http: bool) -> dict[str, Any]:
    """Run the plan against a fresh engine and return the record."""
    record = make_record("throughput", settings, device_of(settings), {})
    async with open_target(settings, http=http) as target:
        return {**record, "results": await results_of(target, plan, settings)}


async def results_of(target: Target, plan: Plan, settings: Settings) -> dict[str, Any]:
    """Run the plan against a warm target that was opened with ``settings``."""
    until = time.perf_counter() + plan.budget_s
    results: dict[str, Any] = {
        "via": "process" if isinstance(target, Service) else "http",
        "client_buffer_s": CLIENT_BUFFER_S,
    }
    await closed_loop(target, _CLIENTS, 0.0)  # warm with several rows
    if "hangup" in plan.parts:
        results["hangup"] = await _hang_up(target, plan)
    if "compare" in plan.parts:
        results["compare"] = await compare(target, plan.rounds, plan.requests)
    if "lockstep" in plan.parts:
        results["lockstep"] = await lock_step(target, settings, plan.rounds, plan.requests)
    if "closed" in plan.parts:
        results["closed"] = await _closed(target, plan, until)
    if "open" in plan.parts:
        results["open"] = await _open(target, plan, until, results.get("closed", []))
        results["real_time_streams"] = real_time_streams(results["open"])
    return {**results, "recompiles": await target.recompiles()}


def real_time_streams(rows: Sequence[dict[str, Any]]) -> float | None:
    """The most listeners of the open loop, on average, who all heard something soon and never a gap."""
    good = [
        row["listeners"]
        for row in rows
        if row["ttfb_p95_s"] is not None
        and row["ttfb_p95_s"] <= REAL_TIME_TTFB_S
        and row["requests"] == row["done"]
        and row["underruns"] == 0
    ]
    return max(good, default=None)


def show(results: dict[str, Any]) -> None:
    """Print the results."""
    for name in ("closed", "open"):
        if rows := results.get(name):
            print(f"\n{name} loop")
            print(columns([{key: row[key] for key in _COLUMNS if key in row} for row in rows]))
    for name in ("hangup", "compare", "lockstep"):
        if name in results:
            print(f"\n{name}")
            print(columns([{"": key, "value": value} for key, value in results[name].items()]))


async def _closed(target: Target, plan: Plan, until: float) -> list[dict[str, Any]]:
    rows = []
    for clients in plan.clients:
        if (left := until - time.perf_counter()) < plan.seconds:
            break
        load = closed_loop(target, clients, plan.seconds, hear_out_s=min(plan.hear_out_s, left))
        rows.append({"clients": clients, **await _loaded(target, load)})
    return rows


async def _open(target: Target, plan: Plan, until: float, closed: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    lengths = [row["audio_s_per_request"] for row in closed if row["audio_s_per_request"]]
    audio_s = lengths[0] if lengths else summary([await closed_loop(target, 1, 1.0)])["audio_s_per_request"]
    listeners = plan.listeners
    if listeners is None:
        reached = max((row["audio_s_per_s"] for row in closed), default=1.0)
        listeners = [max(1.0, round(share * reached)) for share in _SHARES]
    rows = []
    for count in listeners:
        if (left := until - time.perf_counter()) < plan.seconds:
            break
        # So many listen on average when each of their requests lasts this long.
        rate = count / audio_s
        load = open_loop(target, rate, plan.seconds, seed=round(1000 * rate), hear_out_s=min(plan.hear_out_s, left))
        rows.append({"listeners": count, "rate_per_s": round(rate, 3), **await _loaded(target, load)})
    return rows


async def _loaded(target: Target, load: Awaitable[Load]) -> dict[str, Any]:
    await target.loop_lag()
    if isinstance(target, Service):
        target.opened()
    found = summary([await load])
    if isinstance(target, Service):
        waits = percentiles([stream.stats.queue_s for stream in target.opened() if stream.stats.blocks])
        found = {**found, "wait_p50_s": waits["p50"], "wait_p95_s": waits["p95"]}
    return {**found, "lag_p99_ms": (await target.loop_lag())["p99_ms"]}


async def _hang_up(target: Target, plan: Plan) -> dict[str, Any]:
    if isinstance(target, Service):
        return await hang_ups(target, _CLIENTS, 4 * plan.hang_ups, seed=1, longest_s=1.0)
    assert isinstance(target, HttpServer)
    return await hang_ups_at_socket(target, _CLIENTS, plan.hang_ups, seed=1, longest_s=1.0)


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _floats(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def _names(text: str) -> tuple[str, ...]:
    parts = tuple(text.split(","))
    if unknown := set(parts) - set(PARTS):
        raise argparse.ArgumentTypeError(f"{sorted(unknown)[0]!r} is none of {', '.join(PARTS)}")
    return parts


if __name__ == "__main__":
    main()
