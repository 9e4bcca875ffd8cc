"""Time to first byte and real-time factor, one request at a time.

python -m bench.ttfb                          # the embedded model, in this process
python -m bench.ttfb --http                   # the real server, measured at the socket
python -m bench.ttfb --model random-base --voice-seconds 10 --requests 3
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from bench.engines import device_of
from bench.loadgen import TEXTS
from bench.options import parser, result_path, settings_from
from bench.record import make_record, write_record
from bench.show import columns
from bench.stats import percentiles, starved
from bench.targets import Ask, Heard, Outcome, Service, Target, listen, open_target
from bench.voice import speaking_with
from echo.settings import Settings

#: One per length: 0.9 s, 6 s (a hundred characters) and 14 s of speech or so; the last is more than one chunk of the
#: embedded model.
LENGTHS = {
    "short": TEXTS[1],
    "medium": "The train to the coast leaves from the second platform in a quarter of an hour, and it is on time.",
    "long": " ".join((TEXTS[2], TEXTS[5], TEXTS[7])),
}


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__)
    options.add_argument("--http", action="store_true", help="measure the real server at its socket")
    options.add_argument("--requests", type=int, default=10, help="requests per length of text")
    given = options.parse_args()
    with speaking_with(settings_from(given), given.voice_seconds) as settings:
        record = asyncio.run(measure(settings, given.requests, http=given.http))
    show(record["results"])
    if path := result_path(given, "ttfb", record["device_type"], "-http" if given.http else ""):
        write_record(path, record)


async def measure(settings: Settings, requests: int, *, http: bool) -> dict[str, Any]:
    """Run all lengths against a fresh engine and return the record."""
    record = make_record("ttfb", settings, device_of(settings), {})
    async with open_target(settings, http=http) as target:
        return {**record, "results": await results_of(target, requests)}


async def results_of(target: Target, requests: int) -> dict[str, Any]:
    """Ask ``requests`` times for every length, in turns; the first round warms up and does not count."""
    heard: dict[str, list[Heard]] = {name: [] for name in LENGTHS}
    engine: list[float] = []
    for number in range(requests + 1):
        for name, text in LENGTHS.items():
            one = await listen(target, Ask(text, seed=number))
            if one.outcome is not Outcome.DONE:
                raise RuntimeError(f"a request has {one.outcome}")
            opened = target.opened() if isinstance(target, Service) else []
            if number:
                heard[name].append(one)
                engine += [stream.stats.first_frame_s for stream in opened]
    return {
        "via": "process" if isinstance(target, Service) else "http",
        **figures(heard, target.ready_s),
        **({"engine_ttfb": percentiles(engine)} if engine else {}),
        "recompiles": await target.recompiles(),
    }


def figures(heard: Mapping[str, list[Heard]], ready_s: float) -> dict[str, Any]:
    """Per length and over all; the real-time factor is time until the last byte per second of audio."""
    everything = [one for group in heard.values() for one in group]
    rows: list[Mapping[str, Any]] = [{"text": name, **_row(group)} for name, group in heard.items()]
    return {
        "ready_s": round(ready_s, 2),
        "by_length": rows,
        "ttfb": percentiles([one.first_byte_s or 0.0 for one in everything]),
        "rtf": _factor(everything),
        "underruns": sum(starved(one.arrivals).times for one in everything),
    }


def show(results: Mapping[str, Any]) -> None:
    """Print the results."""
    print(columns(results["by_length"]))
    print(f"{'all':>6}: first byte p50 {results['ttfb']['p50']} s, p95 {results['ttfb']['p95']} s, ", end="")
    print(f"real-time factor {results['rtf']}; warm after {results['ready_s']} s")
    if "engine_ttfb" in results:
        print(f"engine: first frame p50 {results['engine_ttfb']['p50']} s, p95 {results['engine_ttfb']['p95']} s")


def _row(group: list[Heard]) -> dict[str, Any]:
    first = sorted(one.first_byte_s or 0.0 for one in group)
    return {
        "requests": len(group),
        "audio_s": round(sum(one.audio_s for one in group) / len(group), 2),
        "ttfb_p50_s": percentiles(first)["p50"],
        "ttfb_max_s": round(first[-1], 4),
        "rtf": _factor(group),
    }


def _factor(group: list[Heard]) -> float:
    took = sum((one.ended or one.asked) - one.asked for one in group)
    return round(took / sum(one.audio_s for one in group), 4)


if __name__ == "__main__":
    main()
