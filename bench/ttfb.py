"""Time to first byte and real-time factor, one request at a time.

python -m bench.ttfb                          # the embedded model, in this process
python -m bench.ttfb --http                   # the real server, measured at the socket
python -m bench.ttfb --model random-base --requests 3
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping
from typing import Any

from bench.engines import device_of
from bench.loadgen import TEXTS
from bench.options import parser, result_path, settings_from
from bench.record import make_record, write_record
from bench.show import columns
from bench.stats import percentiles, starved
from bench.targets import Ask, Heard, Outcome, Target, listen, open_target
from echo.settings import Settings

#: One per length: 0.9 s, 5 s and 14 s of speech or so; the last is more than one chunk of the embedded model.
LENGTHS = {"short": TEXTS[1], "medium": TEXTS[0], "long": " ".join((TEXTS[2], TEXTS[5], TEXTS[7]))}


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__)
    options.add_argument("--http", action="store_true", help="measure the real server at its socket")
    options.add_argument("--voice", help="voice of the requests; default: the server's")
    options.add_argument("--requests", type=int, default=10, help="requests per length of text")
    given = options.parse_args()
    settings = settings_from(given)
    record = asyncio.run(measure(settings, given))
    results = record["results"]
    print(columns(results["by_length"]))
    print(f"{'all':>6}: first byte p50 {results['ttfb']['p50']} s, p95 {results['ttfb']['p95']} s, ", end="")
    print(f"real-time factor {results['rtf']}; warm after {results['ready_s']} s")
    if path := result_path(given, "ttfb", record["device_type"], "-http" if given.http else ""):
        write_record(path, record)


async def measure(settings: Settings, given: argparse.Namespace) -> dict[str, Any]:
    """Run all lengths against a fresh engine and return the record."""
    record = make_record("ttfb", settings, device_of(settings), {})
    async with open_target(settings, http=given.http) as target:
        heard = await ask_all(target, given.requests, given.voice)
    return {**record, "results": {"via": "http" if given.http else "process", **figures(heard, target.ready_s)}}


async def ask_all(target: Target, requests: int, voice: str | None) -> dict[str, list[Heard]]:
    """Ask ``requests`` times for every length, in turns; the first round warms up and does not count."""
    heard: dict[str, list[Heard]] = {name: [] for name in LENGTHS}
    for number in range(requests + 1):
        for name, text in LENGTHS.items():
            one = await listen(target, Ask(text, seed=number, voice=voice))
            if one.outcome is not Outcome.DONE:
                raise RuntimeError(f"a request has {one.outcome}")
            if number:
                heard[name].append(one)
    return heard


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
