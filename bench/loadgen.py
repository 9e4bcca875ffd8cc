"""Clients and what they measure: closed loop, open loop, fixed work, hang-ups."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.engines import TEXTS
from bench.playback import percentiles, underruns
from bench.targets import HttpServer, Outcome, Request, Response, Service, Target, send

# -- loads


def poisson_times(rate: float, seconds: float, seed: int) -> list[float]:
    """Return arrival times in 0..``seconds`` of a Poisson process of ``rate`` per second; repeatable by seed."""
    draw = random.Random(seed)
    times: list[float] = []
    now = draw.expovariate(rate)
    while now < seconds:
        times.append(now)
        now += draw.expovariate(rate)
    return times


@dataclass(slots=True)
class Load:
    """The responses of a set of clients, and the window in which their audio is counted (``time.perf_counter()``)."""

    started: float
    ended: float
    responses: list[Response] = field(default_factory=list)

    @property
    def audio_s(self) -> float:
        """Seconds of audio that arrived within the window."""
        pieces = (piece for response in self.responses for piece in response.arrivals)
        return sum(piece.audio_s for piece in pieces if self.started <= piece.at <= self.ended)


async def closed_loop(
    target: Target, clients: int, seconds: float, *, settle_s: float = 2.0, drain_s: float = 120.0
) -> Load:
    """Keep ``clients`` streams open: each client sends again when its last stream has ended.

    All begin at once, so the window starts after ``settle_s``. Streams open at its end get ``drain_s`` to finish.
    """
    requests = _requests()
    begun = time.perf_counter() + settle_s
    load = Load(begun, begun + seconds)

    async def client() -> None:
        while (now := time.perf_counter()) < load.ended:
            load.responses.append(await send(target, next(requests), hang_up_after=load.ended + drain_s - now))
            if load.responses[-1].outcome is Outcome.REFUSED:
                await asyncio.sleep(0.1)

    await asyncio.gather(*(client() for _ in range(clients)))
    return load


async def open_loop(target: Target, rate: float, seconds: float, *, seed: int, drain_s: float = 120.0) -> Load:
    """Send requests at random times, ``rate`` per second on average, however many are still being served."""
    requests = _requests()
    load = Load(time.perf_counter(), time.perf_counter() + seconds)

    async def client(at: float, request: Request) -> None:
        await asyncio.sleep(max(0.0, load.started + at - time.perf_counter()))
        load.responses.append(await send(target, request, hang_up_after=seconds - at + drain_s))

    await asyncio.gather(*(client(at, next(requests)) for at in poisson_times(rate, seconds, seed)))
    return load


async def fixed_work(target: Target, clients: int, count: int) -> Load:
    """Have ``clients`` share the same ``count`` requests until all are done: for any number of clients the same work.

    The longest come first, so that all clients are busy until shortly before the end.
    """
    requests = iter(sorted(itertools.islice(_requests(), count), key=lambda request: -len(request.text)))
    load = Load(time.perf_counter(), 0.0)

    async def client() -> None:
        for request in requests:
            load.responses.append(await send(target, request))

    await asyncio.gather(*(client() for _ in range(clients)))
    load.ended = time.perf_counter()
    return load


async def real_time_listeners(
    target: Target, clients: int, request: Request, plays_s: float, responses: list[Response]
) -> None:
    """Keep ``clients`` listeners until cancelled; what they receive is added to ``responses``.

    Each sends the request again when its audio has been played, which takes ``plays_s``. Starts are spread over that
    time.
    """

    async def client(offset: float) -> None:
        await asyncio.sleep(offset)
        while True:
            sent_at = time.perf_counter()
            responses.append(await send(target, request))
            await asyncio.sleep(max(0.0, sent_at + plays_s - time.perf_counter()))

    await asyncio.gather(*(client(i * plays_s / clients) for i in range(clients)))


def summary(loads: Sequence[Load]) -> dict[str, Any]:
    """Return the figures of one or several loads; underruns are those of streams that were read to their end."""
    responses = [response for load in loads for response in load.responses]
    outcomes = Counter(response.outcome for response in responses)
    done = [response for response in responses if response.outcome is Outcome.DONE]
    ttfb = percentiles([response.first_byte_s for response in responses if response.first_byte_s is not None])
    gaps = [underruns(response.arrivals) for response in done]
    window_s = sum(load.ended - load.started for load in loads)
    return {
        "requests": len(responses),
        "done": outcomes[Outcome.DONE],
        "refused": outcomes[Outcome.REFUSED],
        "failed": outcomes[Outcome.FAILED],
        "cut_off": outcomes[Outcome.HUNG_UP],
        "ttfb_p50_s": ttfb["p50"],
        "ttfb_p95_s": ttfb["p95"],
        "ttfb_p99_s": ttfb["p99"],
        "audio_s_per_s": round(sum(load.audio_s for load in loads) / window_s, 3),
        "audio_s_per_request": round(sum(one.audio_s for one in done) / len(done), 3) if done else None,
        "streams_with_underruns": sum(gap.count > 0 for gap in gaps),
        "underruns": sum(gap.count for gap in gaps),
        "underrun_s": round(sum(gap.seconds for gap in gaps), 3),
    }


# -- hang-ups


async def hang_ups(service: Service, clients: int, rounds: int, *, seed: int, longest_s: float) -> dict[str, Any]:
    """Have ``clients`` streams at a time hang up at random moments; measure what the device still does for them.

    Times run from the hang-up until the job has left the scheduler; steps are Euler steps of that stream.
    """
    draw = random.Random(seed)
    times: list[float] = []
    steps: list[int] = []
    done = 0
    seeds = itertools.count(1_000_000)

    async def hang_up(after: float, number: int) -> None:
        nonlocal done
        service.streams[number] = []
        response = await send(service, Request(TEXTS[2], seed=number), hang_up_after=after)
        streams = service.streams.pop(number)
        before = sum(stream.stats.steps for stream in streams)
        done += response.outcome is Outcome.DONE
        if response.outcome is not Outcome.HUNG_UP or not streams:
            return
        while not all(stream.finished for stream in streams):  # noqa: ASYNC110  # another thread's plain flag
            await asyncio.sleep(0.001)
        times.append(time.perf_counter() - response.ended_at)
        steps.append(sum(stream.stats.steps for stream in streams) - before)

    for _ in range(rounds):
        await asyncio.gather(*(hang_up(draw.uniform(0.01, longest_s), next(seeds)) for _ in range(clients)))
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
    """Have all of ``clients`` streams hang up at once, at random moments; measure the processor time that follows.

    The idle server's processor time is subtracted. On a CPU the rest is device time that nobody needs.
    """
    draw = random.Random(seed)
    spent: list[float] = []

    async def second() -> float:
        before = server.cpu_seconds()
        await asyncio.sleep(1.0)
        return server.cpu_seconds() - before

    idle = await second()
    for number in range(rounds):
        after = draw.uniform(0.05, longest_s)
        requests = (Request(TEXTS[2], seed=clients * number + i) for i in range(clients))
        responses = await asyncio.gather(*(send(server, request, hang_up_after=after) for request in requests))
        if gone := sum(response.outcome is Outcome.HUNG_UP for response in responses):
            spent.append(max(0.0, await second() - idle) / gone)
    return {
        "clients": clients,
        "rounds": len(spent),
        "cpu_after_mean_ms": round(1000 * sum(spent) / len(spent), 1) if spent else None,
        "cpu_after_max_ms": round(1000 * max(spent, default=0.0), 1),
        "idle_cpu_ms_per_s": round(1000 * idle, 1),
    }


def _requests() -> Iterator[Request]:
    """All texts, repeated for ever, each round with the next seed."""
    return (Request(text, seed=seed) for seed in itertools.count() for text in TEXTS)
