"""Many listeners at once: closed loop, open loop, batched against lock-step, hang-ups, event-loop lag.

python -m bench.throughput                                    # the embedded model, in this process
python -m bench.throughput --http --clients 1,8,64
python -m bench.throughput --clients 8 --seconds 4 --parts closed,compare
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.engines import device_of
from bench.loadgen import Load, closed_loop, hang_ups, hang_ups_at_socket, open_loop, summary
from bench.options import parser, result_path, settings_from
from bench.record import make_record, write_record
from bench.show import columns
from bench.stats import CLIENT_BUFFER_S
from bench.targets import HttpServer, Service, Target, open_server, open_target
from echo.settings import Settings

PARTS = ("closed", "open", "compare", "hangup")
CLIENTS = (1, 2, 4, 8, 16, 32, 64, 128)
#: Shares of what the closed loop reached at ``_COMPARED`` clients that the open loop asks for.
_SHARES = (0.5, 0.8, 1.1)
#: Streams at a time in the comparison of batched and lock-step.
_COMPARED = 8
#: So many may wait that none is refused: what is measured is how long they do.
_QUEUE = 1000
#: Streams still open this long after a load are hung up.
_HEAR_OUT_S = 120.0
#: The columns shown on the terminal.
_COLUMNS = (
    "clients",
    "rate_per_s",
    "requests",
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
    """What to measure: a load per entry of ``clients`` and ``rates`` (None: shares of what the closed loop reached)."""

    parts: Sequence[str] = PARTS
    clients: Sequence[int] = CLIENTS
    rates: Sequence[float] | None = None
    seconds: float = 12.0
    rounds: int = 4
    hang_ups: int = 5
    http: bool = False
    #: Seconds after which no further load of the loops is begun; the comparison comes after them.
    budget_s: float = float("inf")


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__)
    options.add_argument("--http", action="store_true", help="measure the real server at its socket")
    options.add_argument("--parts", type=_names, default=PARTS, help=f"some of {','.join(PARTS)}")
    options.add_argument("--clients", type=_integers, default=CLIENTS, help="clients of the closed loop")
    options.add_argument("--rates", type=_floats, help="requests per second of the open loop")
    options.add_argument("--seconds", type=float, default=12.0, help="of every load; open streams are heard out")
    options.add_argument("--rounds", type=int, default=4, help="of the comparison, in turns")
    options.add_argument("--hang-ups", type=int, default=5, help="rounds of hang-ups")
    options.add_argument("--budget", type=float, default=float("inf"), help="seconds after which no load is begun")
    given = options.parse_args()
    plan = Plan(
        parts=given.parts,
        clients=given.clients,
        rates=given.rates,
        seconds=given.seconds,
        rounds=given.rounds,
        hang_ups=given.hang_ups,
        http=given.http,
        budget_s=given.budget,
    )
    settings = settings_from(given, max_queue=_QUEUE)
    record = asyncio.run(measure(settings, plan))
    show(record["results"])
    if path := result_path(given, "throughput", record["device_type"], "-http" if given.http else ""):
        write_record(path, record)


async def measure(settings: Settings, plan: Plan) -> dict[str, Any]:
    """Run the plan against a fresh engine and return the record."""
    record = make_record("throughput", settings, device_of(settings), {})
    results: dict[str, Any] = {"via": "http" if plan.http else "process", "client_buffer_s": CLIENT_BUFFER_S}
    until = time.perf_counter() + plan.budget_s
    async with open_target(settings, http=plan.http) as target:
        await closed_loop(target, _COMPARED, 0.0)  # warm with several rows
        if "hangup" in plan.parts:
            results["hangup"] = await _hang_up(target, plan)
        if "closed" in plan.parts:
            results["closed"] = await _closed(target, plan, until)
        if "open" in plan.parts:
            results["open"] = await _open(target, plan, until, results.get("closed", []))
    if "compare" in plan.parts:
        results["compare"] = await _compare(settings, plan)
    return {**record, "results": results}


def show(results: dict[str, Any]) -> None:
    """Print the results."""
    for name in ("closed", "open"):
        if rows := results.get(name):
            print(f"\n{name} loop")
            print(columns([{key: row[key] for key in _COLUMNS if key in row} for row in rows]))
    for name in ("hangup", "compare"):
        if name in results:
            print(f"\n{name}")
            print(columns([{"": key, "value": value} for key, value in results[name].items()]))


async def _closed(target: Target, plan: Plan, until: float) -> list[dict[str, Any]]:
    rows = []
    for clients in plan.clients:
        if (left := until - time.perf_counter()) < plan.seconds:
            break
        load = closed_loop(target, clients, plan.seconds, hear_out_s=min(_HEAR_OUT_S, left))
        rows.append({"clients": clients, **await _loaded(target, load)})
    return rows


async def _open(target: Target, plan: Plan, until: float, closed: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    rates = plan.rates
    if rates is None:
        whole = [row for row in closed if row["audio_s_per_request"]]
        found = [row for row in whole if row["clients"] == _COMPARED] or whole[-1:]
        rates = [share * row["audio_s_per_s"] / row["audio_s_per_request"] for row in found for share in _SHARES]
    rows = []
    for rate in rates:
        if (left := until - time.perf_counter()) < plan.seconds:
            break
        seed = round(1000 * rate)
        load = open_loop(target, rate, plan.seconds, seed=seed, hear_out_s=min(_HEAR_OUT_S, left))
        rows.append({"rate_per_s": round(rate, 3), **await _loaded(target, load)})
    return rows


async def _loaded(target: Target, load: Awaitable[Load]) -> dict[str, Any]:
    await target.loop_lag()
    found = summary([await load])
    return {**found, "lag_p99_ms": (await target.loop_lag())["p99_ms"]}


async def _hang_up(target: Target, plan: Plan) -> dict[str, Any]:
    if isinstance(target, Service):
        return await hang_ups(target, _COMPARED, 4 * plan.hang_ups, seed=1, longest_s=1.0)
    assert isinstance(target, HttpServer)
    return await hang_ups_at_socket(target, _COMPARED, plan.hang_ups, seed=1, longest_s=1.0)


async def _compare(settings: Settings, plan: Plan) -> dict[str, Any]:
    """Batched and lock-step with as many clients, and one client alone, in turns, so that drift hits all alike.

    Each in a server process of its own: two engines in one process disturb each other, if only by their threads.
    """
    loads: dict[str, list[Load]] = {"batched": [], "lock_step": [], "one_at_a_time": []}
    one_job = settings.model_copy(update={"max_concurrent": 1})
    async with open_server(settings) as batched, open_server(one_job) as lock_step:
        for target in (batched, lock_step):
            await closed_loop(target, _COMPARED, 0.0)
        for _ in range(plan.rounds):
            loads["batched"].append(await closed_loop(batched, _COMPARED, plan.seconds))
            loads["lock_step"].append(await closed_loop(lock_step, _COMPARED, plan.seconds))
            loads["one_at_a_time"].append(await closed_loop(batched, 1, plan.seconds))
    rates = {name: [summary([load])["audio_s_per_s"] for load in found] for name, found in loads.items()}
    middle = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "clients": _COMPARED,
        **{f"{name}_audio_s_per_s": values for name, values in rates.items()},
        **{f"{name}_ttfb_p50_s": summary(found)["ttfb_p50_s"] for name, found in loads.items()},
        "batched_to_lock_step": round(middle["batched"] / middle["lock_step"], 3),
        "batched_to_one_at_a_time": round(middle["batched"] / middle["one_at_a_time"], 3),
    }


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
