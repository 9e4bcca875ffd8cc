"""Stages of many streams at once: listeners in real time, and the first byte at a socket."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench import ROOT, goals
from bench.light.engine import clip, utterance
from bench.light.journal import Log
from bench.light.light import Light, Skip
from bench.playback import CLIENT_BUFFER_S, Arrival, percentiles, underruns
from echo.engines.block import BlockEngine
from echo.errors import EchoError
from echo.model.echo import EchoModel
from echo.types import SAMPLE_RATE, SAMPLES_PER_LATENT, VoiceState

#: What the device's thread calls of the model.
_CALLS = ("conditions", "extend", "sampler", "step", "decode", "speech_end")
#: What a server needs beside the engine.
_SERVER = ("av", "fastapi", "httpx", "prometheus_client", "pydantic", "soxr", "uvicorn")
#: Seconds that a server needs to start and to answer a few requests.
_SOCKET_S = 60.0


@dataclass(slots=True)
class _Listened:
    """What one listener of one utterance noticed."""

    sent_at: float
    arrivals: list[Arrival] = field(default_factory=list)
    ended: bool = False
    failed: bool = False


def load(light: Light, log: Log) -> None:
    """So many listeners, each with an utterance after the other, played in real time; who begins is spread evenly."""
    light.acceleration()
    served = 0
    with light.engine() as running:
        voice = running.encode_voice(clip(light.shapes.voice_s)).result()
        plays_s = light.shapes.plan().latents * SAMPLES_PER_LATENT / SAMPLE_RATE
        for count in light.shapes.listeners:
            # Until all have begun, the time that counts, and a little for the streams that are then cancelled.
            if log.time_left < plays_s + light.shapes.load_s + 1 and served:
                log.note(f"no time for {count} listeners")
                break
            if _listeners(light, running, voice, count, plays_s, log):
                served = count
            else:
                break
    log.goal(goals.REAL_TIME_STREAMS, served)


def _listeners(light: Light, running: BlockEngine, voice: VoiceState, count: int, plays_s: float, log: Log) -> bool:
    """Whether all listeners are served in real time."""
    misses = running.workload().shape_misses
    with _host_time(light.model) as spent:
        begun = time.perf_counter()
        heard = asyncio.run(_listen(light, running, voice, count, plays_s))
        took = time.perf_counter() - begun
    counted = [each for each in heard if each.sent_at > begun + plays_s / 2]
    first = percentiles([each.arrivals[0].at - each.sent_at for each in counted if each.arrivals])
    late = [time.perf_counter() - each.sent_at for each in counted if not each.arrivals]
    gaps = sum(underruns(each.arrivals).count for each in counted)
    failed = sum(each.failed for each in heard)
    audio_s = sum(piece.audio_s for each in heard for piece in each.arrivals)
    missed = running.workload().shape_misses - misses
    log.row(
        kind="load",
        listeners=count,
        streams=len(counted),
        failed=failed,
        underruns=gaps,
        waiting_at_the_end_s=max(late, default=0.0),
        audio_s_per_s=audio_s / took,
        misses=missed,
        host={name: {"calls": calls, "ms": 1000 * seconds / calls} for name, (calls, seconds) in spent.items()},
        host_share=sum(seconds for _, seconds in spent.values()) / took,
        **{f"first_frame_{name}_s": value for name, value in first.items()},
    )
    p95 = first["p95"]
    log.figure(f"{count} listeners: first frame, p95", 1000 * (p95 or 0.0), "ms")
    log.figure(f"{count} listeners: underruns in {len(counted)} streams", gaps)
    log.figure(f"{count} listeners: audio per second", audio_s / took, "s")
    log.figure(f"{count} listeners: host's share of the device thread", sum(s for _, s in spent.values()) / took)
    log.bounded(f"{count} listeners: calls that were not compiled or captured", missed, 0)
    if failed:
        log.note(f"{count} listeners: {failed} utterances have failed")
    on_time = p95 is not None and p95 <= goals.REAL_TIME_FIRST_BYTE_S
    return on_time and not gaps and not failed and max(late, default=0.0) <= goals.REAL_TIME_FIRST_BYTE_S


async def _listen(light: Light, running: BlockEngine, voice: VoiceState, count: int, plays_s: float) -> list[_Listened]:
    heard: list[_Listened] = []
    end = time.perf_counter() + plays_s + light.shapes.load_s

    async def listener(number: int) -> None:
        await asyncio.sleep(number * plays_s / count)
        seed = 10_000 + number
        while (now := time.perf_counter()) < end:
            one = _Listened(now)
            heard.append(one)
            with running.speak(utterance(light, voice, seed)) as stream:
                try:
                    async with asyncio.timeout(end - now):
                        async for frame in stream:
                            one.arrivals.append(Arrival(time.perf_counter(), len(frame.samples) / SAMPLE_RATE))
                    one.ended = True
                except TimeoutError:
                    return
                except EchoError:
                    one.failed = True
                    return
            audio_s = sum(piece.audio_s for piece in one.arrivals)
            played = one.arrivals[0].at + CLIENT_BUFFER_S + audio_s if one.arrivals else now
            await asyncio.sleep(max(0.0, min(played, end) - time.perf_counter()))
            seed += count

    await asyncio.gather(*(listener(number) for number in range(count)))
    for one in heard:
        # A stream that is cut off with nothing left to play had an underrun, too.
        if one.arrivals and not one.ended:
            one.arrivals.append(Arrival(end, 0.0))
    return heard


@contextmanager
def _host_time(model: EchoModel) -> Iterator[dict[str, tuple[int, float]]]:
    """Count the model's calls and the processor time of the thread that makes them; waiting takes none."""
    spent: dict[str, tuple[int, float]] = defaultdict(lambda: (0, 0.0))

    def counted(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            begun = time.thread_time()
            try:
                return method(*arguments, **named)
            finally:
                calls, seconds = spent[name]
                spent[name] = (calls + 1, seconds + time.thread_time() - begun)

        return call

    for name in _CALLS:
        setattr(model, name, counted(name, getattr(model, name)))
    try:
        yield spent
    finally:
        for name in _CALLS:
            delattr(model, name)


def socket(light: Light, log: Log) -> None:
    """A real server with random weights in the released shapes, measured at its socket."""
    if missing := [name for name in _SERVER if find_spec(name) is None]:
        raise Skip(f"the server's packages are not installed: {', '.join(missing)}")
    if not light.on_cuda:
        raise Skip("a server with the released shapes needs a GPU")
    if log.time_left < _SOCKET_S:
        raise Skip(f"{log.time_left:.0f} s are left and a server needs {_SOCKET_S:.0f} s; bench.suite measures it")
    light.release()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "ttfb.json"
        options = ["--http", "--parts", "ttfb", "--model", "random-base", "--requests", "4", "--json", str(file)]
        command = [sys.executable, "-m", "bench.serving", *options, "--device", str(light.device)]
        subprocess.run(command, cwd=ROOT, timeout=log.time_left, check=True, stdout=subprocess.DEVNULL, env=os.environ)
        results = json.loads(file.read_text(encoding="utf-8"))["results"]
    log.row(kind="socket", **results)
    for row in results["by_length"]:
        if row["text"] == "medium":
            log.goal(goals.SOCKET_FIRST_BYTE, 1000 * row["ttfb_p50_s"])
