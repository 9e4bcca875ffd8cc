"""Clients: closed loop (each asks again when its last stream has ended), open loop (random arrivals), hang-ups."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.server import cpu_seconds
from bench.stats import audio_within, percentiles, poisson_times, starved
from bench.targets import Ask, Heard, HttpServer, Outcome, Service, Target, listen

#: Statements of two to eight seconds, in words that every model knows.
TEXTS = (
    "The train to the coast leaves from the second platform in a quarter of an hour.",
    "Good morning.",
    "She opened the window, looked out over the garden, and saw that it had snowed during the night.",
    "Please keep your ticket until the end of the journey.",
    "There is a small shop on the corner that sells bread, cheese and fresh fruit.",
    "I have not heard from him since the summer, but I am sure that he is well.",
    "Wait a moment, I will ask somebody.",
    "The library is open every day except Sunday, and it has a reading room on the upper floor.",
)


@dataclass(slots=True)
class Load:
    """What a set of clients heard between two times (``time.perf_counter()``)."""

    started: float
    ended: float
    heard: list[Heard] = field(default_factory=list)


async def closed_loop(
    target: Target, clients: int, seconds: float, *, settle_s: float = 2.0, hear_out_s: float = 120.0
) -> Load:
    """Keep ``clients`` streams open for some seconds; those open at the end are heard out, ``hear_out_s`` at most.

    They all begin at once, so the rate of audio is only counted from ``settle_s`` on.
    """
    asks = _asks()
    begun = time.perf_counter() + settle_s
    load = Load(begun, begun + seconds)

    async def client() -> None:
        while (now := time.perf_counter()) < load.ended:
            load.heard.append(await listen(target, next(asks), hang_up_after=load.ended + hear_out_s - now))
            if load.heard[-1].outcome is Outcome.REFUSED:
                await asyncio.sleep(0.1)

    await asyncio.gather(*(client() for _ in range(clients)))
    return load


async def open_loop(target: Target, rate: float, seconds: float, *, seed: int, hear_out_s: float = 120.0) -> Load:
    """Let requests arrive at random, ``rate`` per second on average, whoever is still being served."""
    asks = _asks()
    load = Load(time.perf_counter(), time.perf_counter() + seconds)

    async def client(at: float, ask: Ask) -> None:
        await asyncio.sleep(max(0.0, load.started + at - time.perf_counter()))
        load.heard.append(await listen(target, ask, hang_up_after=seconds - at + hear_out_s))

    await asyncio.gather(*(client(at, next(asks)) for at in poisson_times(rate, seconds, seed)))
    return load


async def run_through(target: Target, clients: int, requests: int) -> Load:
    """Have ``clients`` ask for the same ``requests`` whoever they are, the longest first, until all have been heard.

    The same work for any number of clients: what differs is the time. The longest first, so that all are busy until
    shortly before the end.
    """
    asks = iter(sorted(itertools.islice(_asks(), requests), key=lambda ask: -len(ask.text)))
    load = Load(time.perf_counter(), 0.0)

    async def client() -> None:
        for ask in asks:
            load.heard.append(await listen(target, ask))

    await asyncio.gather(*(client() for _ in range(clients)))
    load.ended = time.perf_counter()
    return load


async def real_time(target: Target, clients: int, ask: Ask, plays_s: float, heard: list[Heard]) -> None:
    """Keep ``clients`` listeners until cancelled; what they hear is added to ``heard``.

    Each asks again when what it asked for has been played, which takes ``plays_s``. They start spread over that time.
    """

    async def client(offset: float) -> None:
        await asyncio.sleep(offset)
        while True:
            asked = time.perf_counter()
            heard.append(await listen(target, ask))
            await asyncio.sleep(max(0.0, asked + plays_s - time.perf_counter()))

    await asyncio.gather(*(client(i * plays_s / clients) for i in range(clients)))


def summary(loads: Sequence[Load]) -> dict[str, Any]:
    """The figures of one or several loads; the rate of audio counts what arrived between a load's two times."""
    heard = [one for load in loads for one in load.heard]
    outcomes = Counter(one.outcome for one in heard)
    done = [one for one in heard if one.outcome is Outcome.DONE]
    ttfb = percentiles([one.first_byte_s for one in heard if one.first_byte_s is not None])
    dry = [starved(one.arrivals) for one in done]
    audio = sum(audio_within(one.arrivals, load.started, load.ended) for load in loads for one in load.heard)
    return {
        "requests": len(heard),
        "done": outcomes[Outcome.DONE],
        "refused": outcomes[Outcome.REFUSED],
        "failed": outcomes[Outcome.FAILED],
        "not_heard_out": outcomes[Outcome.HUNG_UP],
        "ttfb_p50_s": ttfb["p50"],
        "ttfb_p95_s": ttfb["p95"],
        "ttfb_p99_s": ttfb["p99"],
        "audio_s_per_s": round(audio / sum(load.ended - load.started for load in loads), 3),
        "audio_s_per_request": round(sum(one.audio_s for one in done) / len(done), 3) if done else None,
        "streams_with_underruns": sum(one.times > 0 for one in dry),
        "underruns": sum(one.times for one in dry),
        "stalled_s": round(sum(one.seconds for one in dry), 3),
    }


async def hang_ups(service: Service, clients: int, rounds: int, *, seed: int, longest_s: float) -> dict[str, Any]:
    """Have ``clients`` streams at a time hang up at random moments; count what the device still does for them.

    Times run from the client's leaving until the job has left the scheduler; steps are Euler steps of that stream.
    """
    draw = random.Random(seed)
    times: list[float] = []
    steps: list[int] = []
    done = 0
    seeds = itertools.count(1_000_000)

    async def leave(after: float, number: int) -> None:
        nonlocal done
        service.streams[number] = []
        heard = await listen(service, Ask(TEXTS[2], seed=number), hang_up_after=after)
        left, streams = heard.ended or 0.0, service.streams.pop(number)
        before = [stream.stats.steps for stream in streams]
        done += heard.outcome is Outcome.DONE
        if heard.outcome is not Outcome.HUNG_UP or not streams:
            return
        while not all(stream.finished for stream in streams):  # noqa: ASYNC110  # another thread's plain flag
            await asyncio.sleep(0.001)
        times.append(time.perf_counter() - left)
        steps.append(sum(stream.stats.steps for stream in streams) - sum(before))

    for _ in range(rounds):
        await asyncio.gather(*(leave(draw.uniform(0.01, longest_s), next(seeds)) for _ in range(clients)))
    after = percentiles([1000 * value for value in times], digits=1)
    return {
        "clients": clients,
        "hung_up": len(times),
        "ended_before": done,
        "gone_after_p50_ms": after["p50"],
        "gone_after_p99_ms": after["p99"],
        "gone_after_max_ms": round(1000 * max(times, default=0.0), 1),
        "steps_after_mean": round(sum(steps) / len(steps), 3) if steps else None,
        "steps_after_max": max(steps, default=0),
    }


async def hang_ups_at_socket(
    server: HttpServer, clients: int, rounds: int, *, seed: int, longest_s: float
) -> dict[str, Any]:
    """Have all of ``clients`` streams hang up at once, at random moments; count the processor time that follows.

    What the idle server takes is subtracted. On a CPU that is the device time spent for nobody.
    """
    draw = random.Random(seed)
    spent: list[float] = []

    async def second() -> float:
        before = cpu_seconds(server.pid)
        await asyncio.sleep(1.0)
        return cpu_seconds(server.pid) - before

    idle = await second()
    for number in range(rounds):
        after = draw.uniform(0.05, longest_s)
        asks = (Ask(TEXTS[2], seed=clients * number + i) for i in range(clients))
        heard = await asyncio.gather(*(listen(server, ask, hang_up_after=after) for ask in asks))
        if gone := sum(one.outcome is Outcome.HUNG_UP for one in heard):
            spent.append(max(0.0, await second() - idle) / gone)
    return {
        "clients": clients,
        "rounds": len(spent),
        "cpu_after_mean_ms": round(1000 * sum(spent) / len(spent), 1) if spent else None,
        "cpu_after_max_ms": round(1000 * max(spent, default=0.0), 1),
        "idle_cpu_ms_per_s": round(1000 * idle, 1),
    }


def _asks() -> Iterator[Ask]:
    """All texts, over and over, each time with another seed."""
    return (Ask(text, seed=seed) for seed in itertools.count() for text in TEXTS)
