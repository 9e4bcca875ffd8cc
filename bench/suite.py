"""``ttfb`` and ``throughput`` against one start of the engine: a big model takes a minute to load and to warm up.

python -m bench.suite --keep
python -m bench.suite --http --keep --parts closed --clients 1,8
"""

from __future__ import annotations

import asyncio
from typing import Any

from bench import throughput, ttfb
from bench.engines import device_of
from bench.options import parser, result_path, settings_from
from bench.record import make_record, write_record
from bench.targets import open_target
from bench.voice import speaking_with
from echo.settings import Settings


def main() -> None:
    """Measure, print, write a file for each of the two."""
    options = parser(__doc__)
    options.add_argument("--http", action="store_true", help="measure the real server at its socket")
    options.add_argument("--requests", type=int, default=10, help="requests per length of text, for ttfb")
    throughput.add_options(options)
    given = options.parse_args()
    plan = throughput.plan_from(given)
    with speaking_with(settings_from(given, **throughput.QUEUE), given.voice_seconds) as settings:
        first, many = asyncio.run(measure(settings, given.requests, plan, http=given.http))
    ttfb.show(first["results"])
    throughput.show(many["results"])
    for record in (first, many):
        if path := result_path(given, record["bench"], record["device_type"], "-http" if given.http else ""):
            write_record(path, record)


async def measure(
    settings: Settings, requests: int, plan: throughput.Plan, *, http: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The records of ``ttfb`` and ``throughput``, in this order."""
    device = device_of(settings)
    first, many = (make_record(bench, settings, device, {}) for bench in ("ttfb", "throughput"))
    async with open_target(settings, http=http) as target:
        return (
            {**first, "results": await ttfb.results_of(target, requests)},
            {**many, "results": await throughput.results_of(target, plan, settings)},
        )


if __name__ == "__main__":
    main()
