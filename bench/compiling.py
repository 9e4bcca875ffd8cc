"""Compile and capture a model as the server does at its start, so that the benchmarks behind it find it compiled.

    python -m bench.compiling --model random-base

Tells the seconds until the model was ready, and whether an earlier start had left something in the cache. On a device
on which nothing is compiled there is nothing to do, and it says so.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from bench.engines import device_of, load_weights, open_model
from bench.record import make_record, parser, save, settings_from
from bench.text import duration
from echo.model.cuda.compile import obstacle
from echo.settings import Settings


def main() -> None:
    """Compile, print, write."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    given = parser(__doc__).parse_args()
    settings = settings_from(given)
    record = make_record("compiling", settings, device_of(settings))
    results = measure(settings)
    if results["obstacle"]:
        print(f"nothing is compiled: {results['obstacle']}")
    else:
        before = "what an earlier start has compiled" if results["cached"] else "nothing compiled before"
        print(f"ready after {duration(results['seconds'])} with {before}")
    save([{**record, "results": results}], given)


def measure(settings: Settings) -> dict[str, Any]:
    """Open the model, weights not counted."""
    if reason := obstacle(device_of(settings)):
        return {"obstacle": reason}
    if not (settings.compile or settings.compile_ae):
        return {"obstacle": "ECHO_COMPILE and ECHO_COMPILE_AE are 0"}
    folder = settings.cache_dir.expanduser() / settings.cache_version
    cached = any(folder.glob("*.bin"))
    loaded = load_weights(settings)
    begun = time.perf_counter()
    open_model(settings, loaded)
    return {"obstacle": None, "cached": cached, "seconds": round(time.perf_counter() - begun, 2)}


if __name__ == "__main__":
    main()
