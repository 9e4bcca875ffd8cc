"""What the server costs without a model: processor time per real-time stream, and the event loop's lag.

    python -m bench.overhead
    python -m bench.overhead --streams 16 --seconds 5

The server runs in a process of its own with a fake engine; its processor time is read from /proc, so this needs Linux.
Three loads: *real time* has every listener ask again when the last answer, which the engine returned at once, has been
played; *paced* keeps every stream open for as long as it plays, a block per second; *flat out* asks again at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

from bench.engines import FAKE, FAKE_PACED, device_of
from bench.loadgen import TEXTS, real_time
from bench.options import parser, result_path, settings_from
from bench.record import make_record, write_record
from bench.server import cpu_seconds
from bench.show import columns
from bench.stats import percentiles
from bench.targets import Ask, Heard, Outcome, open_server
from echo.engines.fake import FakeScript
from echo.settings import Settings
from echo.types import SAMPLE_RATE, SAMPLES_PER_LATENT

#: A block of about a second.
_BLOCK = round(SAMPLE_RATE / SAMPLES_PER_LATENT)
#: About ten seconds of audio from the fake, in such blocks.
_TEXT = " ".join((TEXTS[0], TEXTS[2]))
_OPTIONS = {"block_sizes": [_BLOCK] * 16, "num_steps": 1}
_FAKE_S_PER_CHAR = FakeScript().audio_s_per_char


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__)
    options.add_argument("--streams", type=int, default=64)
    options.add_argument("--seconds", type=float, default=20.0)
    given = options.parse_args()
    settings = settings_from(given, max_concurrent=given.streams, max_queue=given.streams)
    record = asyncio.run(measure(settings, given.streams, given.seconds))
    print(columns(record["results"]["loads"]))
    if path := result_path(given, "overhead", record["device_type"]):
        write_record(path, record)


async def measure(settings: Settings, streams: int, seconds: float) -> dict[str, Any]:
    """Run the loads and return the record."""
    fake = settings.model_copy(update={"model_repo": FAKE})
    paced = settings.model_copy(update={"model_repo": FAKE_PACED})
    record = make_record("overhead", fake, device_of(settings), {})
    loads = [
        await _load("real time", fake, streams, seconds),
        await _load("paced", paced, streams, seconds),
        await _load("flat out", fake, streams, seconds / 2),
        await _load("real time", fake, streams, seconds / 2, encoding="opus"),
        await _load("real time", fake, streams, seconds / 2, encoding="mp3"),
    ]
    return {**record, "results": {"streams": streams, "loads": loads}}


async def _load(name: str, settings: Settings, streams: int, seconds: float, encoding: str = "pcm") -> dict[str, Any]:
    async with open_server(settings) as server:
        audio_s = len(_TEXT) * _FAKE_S_PER_CHAR
        heard: list[Heard] = []
        plays_s = 0.0 if name == "flat out" else audio_s
        idle = cpu_seconds(server.pid)
        await asyncio.sleep(1.0)
        idle = cpu_seconds(server.pid) - idle
        clients = asyncio.create_task(
            real_time(server, streams, Ask(_TEXT, encoding=encoding, options=_OPTIONS), plays_s, heard)
        )
        await asyncio.sleep(plays_s + 1.0)
        begun, cpu, before = time.perf_counter(), cpu_seconds(server.pid), len(heard)
        await server.loop_lag()
        await asyncio.sleep(seconds)
        took, cpu, lag = time.perf_counter() - begun, cpu_seconds(server.pid) - cpu, await server.loop_lag()
        counted = heard[before:]
        clients.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await clients
    ttfb = percentiles([one.first_byte_s for one in counted if one.first_byte_s is not None])
    done = sum(one.outcome is Outcome.DONE for one in counted)
    # Listeners that play in real time take a second of audio per second each, whenever it reaches them.
    heard_s = done * audio_s if not plays_s else streams * took
    return {
        "load": name,
        "encoding": encoding,
        "streams": streams,
        "requests": len(counted),
        "failed": len(counted) - done,
        "cores": round(cpu / took, 4),
        "idle_cores": round(idle, 4),
        "core_percent_per_stream": round(100 * cpu / heard_s, 3) if heard_s else None,
        "ttfb_p50_ms": _ms(ttfb["p50"]),
        "ttfb_p99_ms": _ms(ttfb["p99"]),
        "lag_p99_at_most_ms": lag["p99_ms"],
        "lag_looks": lag["looks"],
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1000 * seconds, 1)


if __name__ == "__main__":
    main()
