"""What the server costs without a model: processor time per real-time stream, and event-loop lag.

    python -m bench.overhead
    python -m bench.overhead --streams 16 --seconds 5

The server is a process of its own with a fake engine; its processor time is read from /proc, so this needs Linux. The
listeners run in this process and do not count; each sends its request again when the audio has been played. *at once*:
the engine delivers everything immediately and the listeners read at the speed of a player, from small buffers, so that
the server has to wait for them. *paced*: the engine delivers a block when the one before it has been played. Compressed
audio is read as fast as it comes: the player's speed in bytes is not known beforehand.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import Any

from bench.engines import FAKE, FAKE_PACED, TEXTS, device_of
from bench.loadgen import real_time_listeners
from bench.playback import percentiles
from bench.record import make_record, parser, save, settings_from
from bench.targets import HttpServer, Outcome, Request, Response, open_server
from bench.text import columns
from echo.engines.fake import FakeScript
from echo.settings import Settings
from echo.types import SAMPLE_RATE, SAMPLES_PER_LATENT

#: Latents of a block of about a second.
_BLOCK = round(SAMPLE_RATE / SAMPLES_PER_LATENT)
#: About six seconds of audio from the fake, in such blocks.
_TEXT = TEXTS[2]
_AUDIO_S = len(_TEXT) * FakeScript().audio_s_per_char
_OPTIONS = {"block_sizes": [_BLOCK] * 16, "num_steps": 1}


@dataclass(frozen=True, slots=True)
class Listeners:
    """A load: how the engine delivers, and how its audio is encoded and read."""

    name: str
    encoding: str = "pcm"

    @property
    def request(self) -> Request:
        """The request that every listener sends."""
        return Request(_TEXT, encoding=self.encoding, options=_OPTIONS, real_time=self.encoding == "pcm")


#: By the engine's model name.
_LOADS = {
    FAKE: [Listeners("at once"), Listeners("at once", "opus"), Listeners("at once", "mp3")],
    FAKE_PACED: [Listeners("paced")],
}


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__)
    options.add_argument("--streams", type=int, default=64)
    options.add_argument("--seconds", type=float, default=6.0, help="of every load, once all listeners have started")
    given = options.parse_args()
    settings = settings_from(
        given, max_concurrent=given.streams, max_queue=given.streams, max_queue_wait_s=0.0, client_share=1.0
    )
    record = asyncio.run(measure(settings, given.streams, given.seconds))
    print(columns(record["results"]["loads"]))
    save([record], given)


async def measure(settings: Settings, streams: int, seconds: float) -> dict[str, Any]:
    """Run the loads, those of one engine against one server, and return the record."""
    record = make_record("overhead", settings.model_copy(update={"model_repo": FAKE}), device_of(settings))
    rows = []
    for model, loads in _LOADS.items():
        async with open_server(settings.model_copy(update={"model_repo": model}), real_time=True) as server:
            idle = await _cores(server, 1.0)
            for load in loads:
                rows.append({**await _measure_load(server, load, streams, seconds), "idle_cores": round(idle, 4)})
    return {**record, "results": {"streams": streams, "loads": rows}}


async def _measure_load(server: HttpServer, load: Listeners, streams: int, seconds: float) -> dict[str, Any]:
    responses: list[Response] = []
    listening = asyncio.create_task(real_time_listeners(server, streams, load.request, _AUDIO_S, responses))
    await asyncio.sleep(_AUDIO_S + 1.0)  # by then all have started
    before = len(responses)
    await server.loop_lag()
    cores = await _cores(server, seconds)
    lag, counted = await server.loop_lag(), responses[before:]
    listening.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await listening
    ttfb = percentiles([1000 * one.first_byte_s for one in counted if one.first_byte_s is not None], digits=1)
    return {
        "load": load.name,
        "encoding": load.encoding,
        "streams": streams,
        "requests": len(counted),
        "failed": sum(response.outcome is not Outcome.DONE for response in counted),
        "cores": round(cores, 4),
        # Every listener plays a second of audio per second, however it is delivered.
        "core_percent_per_stream": round(100 * cores / streams, 3),
        "ttfb_p50_ms": ttfb["p50"],
        "ttfb_p99_ms": ttfb["p99"],
        "lag_p99_at_most_ms": lag["p99_ms"],
        "lag_samples": lag["samples"],
    }


async def _cores(server: HttpServer, seconds: float) -> float:
    """Processor time per second of the server, over the next seconds."""
    begun, before = time.perf_counter(), server.cpu_seconds()
    await asyncio.sleep(seconds)
    return (server.cpu_seconds() - before) / (time.perf_counter() - begun)


if __name__ == "__main__":
    main()
