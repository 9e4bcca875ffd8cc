"""How fast speech is served: first byte, and many clients at once, against one start of the engine.

    python -m bench.serving                                          # everything, the embedded model in this process
    python -m bench.serving --http --parts ttfb                      # a real server, measured at its socket
    python -m bench.serving --http --parts closed --clients 1,8,64
    python -m bench.serving --model random-base --voice-seconds 10 --parts ttfb --requests 3

Parts: ``ttfb`` (first byte and real-time factor, one request at a time), ``hangup`` (work left after a client hangs
up), ``compare`` (eight clients at once against one), ``lockstep`` (batching against one utterance after another),
``closed`` (every client asks again when its stream has ended), ``open`` (listeners arrive at random).
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

from bench.engines import TEXTS, default_voice_of, device_of
from bench.goals import REAL_TIME_FIRST_BYTE_S
from bench.loadgen import (
    Load,
    closed_loop,
    fixed_work,
    hang_ups,
    hang_ups_at_socket,
    open_loop,
    summary,
)
from bench.playback import CLIENT_BUFFER_S, percentiles, underruns
from bench.record import make_record, parser, save, settings_from
from bench.targets import (
    HttpServer,
    Outcome,
    Request,
    Response,
    Service,
    Target,
    open_server,
    open_target,
    send,
)
from bench.text import columns
from echo.settings import Settings

PARTS = ("ttfb", "hangup", "compare", "lockstep", "closed", "open")
#: Texts of the first-byte measurement: 0.9 s, 6 s (a hundred characters) and 14 s of speech or so; the last is more
#: than one chunk of the embedded model.
LENGTHS = {
    "short": TEXTS[1],
    "medium": "The train to the coast leaves from the second platform in a quarter of an hour, and it is on time.",
    "long": " ".join((TEXTS[2], TEXTS[5], TEXTS[7])),
}

#: Clients of hang-ups and comparisons.
_CLIENTS = 8
#: Without ``--listeners`` the open loop offers these shares of the audio rate that the closed loop reached.
_SHARES = (0.5, 0.8, 1.1)
#: Nobody is refused: the time that requests wait is measured instead.
_QUEUE = {"max_queue": 1000, "max_queue_wait_s": 0.0}
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
    "underrun_s",
    "audio_s_per_s",
    "lag_p99_ms",
)


class Options(argparse.Namespace):
    """The command line's options, beside the shared ones."""

    http: bool
    parts: tuple[str, ...]
    requests: int
    clients: tuple[int, ...]
    listeners: tuple[float, ...] | None
    seconds: float
    drain: float
    rounds: int
    compare_requests: int
    hang_ups: int
    budget: float
    voice_seconds: float | None


def options() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = parser(__doc__)
    made.add_argument("--http", action="store_true", help="measure a real server at its socket")
    made.add_argument("--voice-seconds", type=float, help="reference clip of this length; default: the server's voice")
    made.add_argument("--parts", type=_parts, default=PARTS, help=f"some of {','.join(PARTS)}")
    made.add_argument("--requests", type=int, default=10, help="per length of text, for ttfb")
    made.add_argument("--clients", type=_integers, default="1,2,4,8,16,32,64,128", help="of the closed loop")
    made.add_argument("--listeners", type=_floats, help="real-time listeners of the open loop, on average")
    made.add_argument("--seconds", type=float, default=12.0, help="of every load of the two loops")
    made.add_argument("--drain", type=float, default=120.0, help="seconds that open streams get to finish after that")
    made.add_argument("--rounds", type=int, default=3, help="of the comparisons, in turns")
    made.add_argument("--compare-requests", type=int, default=24, help="requests per round of the comparisons")
    made.add_argument("--hang-ups", type=int, default=5, help="rounds of hang-ups")
    made.add_argument("--budget", type=float, default=float("inf"), help="seconds after which no load is begun")
    return made


def main() -> None:
    """Measure, print, and write one file for ttfb and one (throughput) for all other parts."""
    given = options().parse_args(namespace=Options())
    with default_voice_of(settings_from(given, **_QUEUE), given.voice_seconds) as settings:
        records = asyncio.run(measure(settings, given))
    for record in records:
        (_show_ttfb if record["bench"] == "ttfb" else _show_throughput)(record["results"])
    save(records, given, "-http" if given.http else "")


async def measure(settings: Settings, given: Options) -> list[dict[str, Any]]:
    """Run the parts against one target; returns a record for ttfb and one for the others, where asked for."""
    device, records = device_of(settings), []
    async with open_target(settings, http=given.http) as target:
        if "ttfb" in given.parts:
            record = make_record("ttfb", settings, device)
            records.append({**record, "results": await ttfb(target, given.requests)})
        if set(given.parts) - {"ttfb"}:
            record = make_record("throughput", settings, device)
            records.append({**record, "results": await throughput(target, given, settings)})
    return records


# -- one request at a time


async def ttfb(target: Target, requests: int) -> dict[str, Any]:
    """Send ``requests`` per length of text, lengths in turns; the first round warms up and does not count."""
    responses: dict[str, list[Response]] = {name: [] for name in LENGTHS}
    engine: list[float] = []
    for number in range(requests + 1):
        for name, text in LENGTHS.items():
            response = await send(target, Request(text, seed=number))
            if response.outcome is not Outcome.DONE:
                raise RuntimeError(f"a request has {response.outcome}")
            started = target.take_started() if isinstance(target, Service) else []
            if number:
                responses[name].append(response)
                engine += [stream.stats.first_frame_s for stream in started]
    everything = [response for group in responses.values() for response in group]
    return {
        **_via(target),
        "ready_s": round(target.ready_s, 2),
        "by_length": [{"text": name, **_length_row(group)} for name, group in responses.items()],
        "ttfb": percentiles(_first_bytes(everything)),
        "rtf": _real_time_factor(everything),
        "underruns": sum(underruns(response.arrivals).count for response in everything),
        **({"engine_ttfb": percentiles(engine)} if engine else {}),
        "recompiles": await target.recompiles(),
    }


def _length_row(group: list[Response]) -> dict[str, Any]:
    first = _first_bytes(group)
    return {
        "requests": len(group),
        "audio_s": round(sum(response.audio_s for response in group) / len(group), 2),
        "ttfb_p50_s": percentiles(first)["p50"],
        "ttfb_max_s": round(max(first), 4),
        "rtf": _real_time_factor(group),
    }


def _first_bytes(group: Sequence[Response]) -> list[float]:
    return [response.first_byte_s for response in group if response.first_byte_s is not None]


def _real_time_factor(group: Sequence[Response]) -> float:
    """Seconds until the last byte per second of audio."""
    took = sum(response.ended_at - response.sent_at for response in group)
    return round(took / sum(response.audio_s for response in group), 4)


# -- many at once


async def throughput(target: Target, given: Options, settings: Settings) -> dict[str, Any]:
    """Run the other parts against a warm target that was opened with ``settings``."""
    until = time.perf_counter() + given.budget
    results: dict[str, Any] = {**_via(target), "client_buffer_s": CLIENT_BUFFER_S}
    await closed_loop(target, _CLIENTS, 0.0)  # warm with several streams at once
    if "hangup" in given.parts:
        results["hangup"] = await _hang_ups(target, given)
    if "compare" in given.parts:
        results["compare"] = await compare(("together", target, _CLIENTS), ("one_at_a_time", target, 1), given)
    if "lockstep" in given.parts:
        async with open_server(settings.model_copy(update={"max_concurrent": 1})) as one_job:
            await closed_loop(one_job, _CLIENTS, 0.0)
            results["lockstep"] = await compare(("together", target, _CLIENTS), ("lock_step", one_job, _CLIENTS), given)
    if "closed" in given.parts:
        results["closed"] = await _closed(target, given, until)
    if "open" in given.parts:
        results["open"] = await _open(target, given, until, results.get("closed", []))
        results["real_time_streams"] = real_time_streams(results["open"])
    return {**results, "recompiles": await target.recompiles()}


async def compare(a: tuple[str, Target, int], b: tuple[str, Target, int], given: Options) -> dict[str, Any]:
    """Run the same requests by two ways (name, target, clients), round after round in turns."""
    loads: dict[str, list[Load]] = {a[0]: [], b[0]: []}
    for _ in range(given.rounds):
        for name, target, clients in (a, b):
            loads[name].append(await fixed_work(target, clients, given.compare_requests))
    return {"clients": a[2], **ratio(loads), "same_audio": same_audio([*loads[a[0]], *loads[b[0]]])}


def ratio(loads: Mapping[str, Sequence[Load]]) -> dict[str, Any]:
    """Return audio rate and first byte of two ways, and the ratio of their rates: of medians, and by round."""
    rates = {name: [audio_rate(load) for load in group] for name, group in loads.items()}
    first, second = rates.values()
    return {
        **{f"{name}_audio_s_per_s": [round(rate, 3) for rate in values] for name, values in rates.items()},
        **{f"{name}_ttfb_p50_s": summary(group)["ttfb_p50_s"] for name, group in loads.items()},
        "ratio": round(statistics.median(first) / statistics.median(second), 3),
        "ratio_by_round": [round(a / b, 3) for a, b in zip(first, second, strict=True)],
    }


def audio_rate(load: Load) -> float:
    """Return seconds of audio per second of a finished load; raises RuntimeError when a request failed."""
    if bad := [response.outcome for response in load.responses if response.outcome is not Outcome.DONE]:
        raise RuntimeError(f"a request has {bad[0]}")
    return sum(response.audio_s for response in load.responses) / (load.ended - load.started)


def same_audio(loads: Sequence[Load]) -> bool:
    """Whether every load received the same bytes for the same requests."""
    return len({tuple(sorted(response.checksum for response in load.responses)) for load in loads}) == 1


def real_time_streams(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the most listeners of the open loop who were all served in real time; None if there are none."""
    good = [
        row["listeners"]
        for row in rows
        if row["ttfb_p95_s"] is not None
        and row["ttfb_p95_s"] <= REAL_TIME_FIRST_BYTE_S
        and row["requests"] == row["done"]
        and row["underruns"] == 0
    ]
    return max(good, default=None)


async def _closed(target: Target, given: Options, until: float) -> list[dict[str, Any]]:
    rows = []
    for clients in given.clients:
        if (left := until - time.perf_counter()) < given.seconds:
            break
        load = closed_loop(target, clients, given.seconds, drain_s=min(given.drain, left))
        rows.append({"clients": clients, **await _figures(target, load)})
    return rows


async def _open(target: Target, given: Options, until: float, closed: Sequence[Mapping[str, Any]]) -> list[Any]:
    lengths = [row["audio_s_per_request"] for row in closed if row["audio_s_per_request"]]
    audio_s = lengths[0] if lengths else summary([await closed_loop(target, 1, 1.0)])["audio_s_per_request"]
    listeners: Sequence[float] | None = given.listeners
    if listeners is None:
        reached = max((row["audio_s_per_s"] for row in closed), default=1.0)
        listeners = [max(1.0, round(share * reached)) for share in _SHARES]
    rows = []
    for count in listeners:
        if (left := until - time.perf_counter()) < given.seconds:
            break
        # Little's law: so many listen on average when each of their requests plays this long.
        rate = count / audio_s
        load = open_loop(target, rate, given.seconds, seed=round(1000 * rate), drain_s=min(given.drain, left))
        rows.append({"listeners": count, "rate_per_s": round(rate, 3), **await _figures(target, load)})
    return rows


async def _figures(target: Target, load: Awaitable[Load]) -> dict[str, Any]:
    await target.loop_lag()
    if isinstance(target, Service):
        target.take_started()
    found = summary([await load])
    if isinstance(target, Service):
        waits = percentiles([stream.stats.queue_s for stream in target.take_started() if stream.stats.blocks])
        found |= {"wait_p50_s": waits["p50"], "wait_p95_s": waits["p95"]}
    return {**found, "lag_p99_ms": (await target.loop_lag())["p99_ms"]}


async def _hang_ups(target: Target, given: Options) -> dict[str, Any]:
    if isinstance(target, Service):
        return await hang_ups(target, _CLIENTS, 4 * given.hang_ups, seed=1, longest_s=1.0)
    assert isinstance(target, HttpServer)
    return await hang_ups_at_socket(target, _CLIENTS, given.hang_ups, seed=1, longest_s=1.0)


def _via(target: Target) -> dict[str, str]:
    return {"via": "process" if isinstance(target, Service) else "http"}


# -- terminal


def _show_ttfb(results: Mapping[str, Any]) -> None:
    print(columns(results["by_length"]))
    for name, key in (("first byte", "ttfb"), ("first frame in the engine", "engine_ttfb")):
        if key in results:
            print(f"{name}: p50 {results[key]['p50']} s, p95 {results[key]['p95']} s")
    print(f"real-time factor {results['rtf']}, warm after {results['ready_s']} s")


def _show_throughput(results: Mapping[str, Any]) -> None:
    for name in ("closed", "open"):
        if rows := results.get(name):
            print(f"\n{name} loop")
            print(columns([{key: row[key] for key in _COLUMNS if key in row} for row in rows]))
    for name in ("hangup", "compare", "lockstep"):
        if name in results:
            print(f"\n{name}")
            print(columns([{"": key, "value": value} for key, value in results[name].items()]))


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _floats(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def _parts(text: str) -> tuple[str, ...]:
    parts = tuple(text.split(","))
    if unknown := set(parts) - set(PARTS):
        raise argparse.ArgumentTypeError(f"{sorted(unknown)[0]!r} is none of {', '.join(PARTS)}")
    return parts


if __name__ == "__main__":
    main()
