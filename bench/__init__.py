"""Benchmarks: latency, throughput, stages against the device's limits. ``bench/README.md`` says how to run them."""

from pathlib import Path

#: The checkout.
ROOT = Path(__file__).resolve().parent.parent
#: Where committed results are.
RESULTS = ROOT / "bench" / "results"
