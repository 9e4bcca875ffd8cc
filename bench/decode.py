"""Cost of streaming decode per latent, early and late in an utterance: it must not grow with the position.

python -m bench.decode                        # the embedded model's decoder
python -m bench.decode --model random-base    # the released shapes
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch

from bench.engines import device_of, load_parts
from bench.options import parser, result_path, settings_from
from bench.record import make_record, write_record
from bench.show import columns
from echo.model.autoencoder.streaming import DecodeState, StreamingDecoder
from echo.settings import Settings
from echo.types import LATENT_SIZE, SAMPLE_RATE, SAMPLES_PER_LATENT

#: Latents already decoded when a piece is timed.
POSITIONS = (0, 32, 600)
#: Latents per piece: the first block of the released preset.
PIECE = 32


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__)
    options.add_argument("--repeats", type=int, default=15, help="timed pieces per position")
    given = options.parse_args()
    settings = settings_from(given)
    record = measure(settings, given)
    print(columns(record["results"]["by_position"]))
    if path := result_path(given, "decode", record["device_type"]):
        write_record(path, record)


def measure(settings: Settings, given: argparse.Namespace) -> dict[str, Any]:
    """Time pieces at every position in turns, so that a drift of the machine hits all alike."""
    device = device_of(settings)
    record = make_record("decode", settings, device, {})
    parts = load_parts(settings)
    decoder = StreamingDecoder(parts.autoencoder, parts.pca)
    latents = torch.randn(max(POSITIONS) + PIECE, LATENT_SIZE, generator=torch.Generator().manual_seed(0)).to(device)
    states = {position: _state_at(decoder, latents, position) for position in POSITIONS}
    took: dict[int, list[float]] = {position: [] for position in POSITIONS}
    for number in range(given.repeats + 1):
        for position, state in states.items():
            started = time.perf_counter()
            decoder.decode(state, latents[position : position + PIECE])  # returns host samples: synchronised
            if number:
                took[position].append(time.perf_counter() - started)
    rows: list[dict[str, Any]] = [
        {
            "position": position,
            "ms_per_latent": round(1000 * statistics.median(times) / PIECE, 4),
            "rtf": round(statistics.median(times) / (PIECE * SAMPLES_PER_LATENT / SAMPLE_RATE), 4),
            "state_bytes": states[position].nbytes,
        }
        for position, times in took.items()
    ]
    ratio = rows[-1]["ms_per_latent"] / rows[1]["ms_per_latent"]
    return {**record, "results": {"piece": PIECE, "by_position": rows, "late_over_early": round(ratio, 3)}}


def _state_at(decoder: StreamingDecoder, latents: torch.Tensor, position: int) -> DecodeState:
    state = decoder.start()
    for start in range(0, position, PIECE):
        _, state = decoder.decode(state, latents[start : min(start + PIECE, position)])
    return state


if __name__ == "__main__":
    main()
