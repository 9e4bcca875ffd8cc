"""Does a device compute what the reference computed, and an utterance among others what it computes alone?

    python -m bench.parity --device cuda

Float32 runs without TF32.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from bench.engines import TEXTS, device_of, open_engine, plan_of, reference_clip
from bench.golden import Check, Golden, exact_float32
from bench.record import make_record, parser, save, settings_from
from bench.text import columns
from echo.engines.base import Engine
from echo.engines.load import pick_dtype
from echo.settings import Settings
from echo.stream import FrameStream
from echo.types import Audio, BlockPlan, Utterance

#: Other utterances in work beside the one that is compared.
OTHERS = 15
#: One in so many of them hangs up after its first frame.
_HANGS_UP = 3
#: Blocks of an utterance on a CPU, where a whole one among so many takes a minute.
_CPU_BLOCKS = 2
#: Bounds on the largest difference of a sample (full scale is 1), and on the relative RMS difference. On a CPU every
#: row is computed as if it were alone. A GPU chooses matrix kernels by batch size, which changes the order of sums, and
#: guidance multiplies the difference in every step.
_EXACT = (0.0, 0.0)
_GPU = {torch.float32: (0.01, 0.005), torch.float16: (0.1, 0.05), torch.bfloat16: (0.2, 0.1)}


def main() -> None:
    """Check, print, write; exit status 1 when a bound is broken."""
    given = parser(__doc__).parse_args()
    record = measure(settings_from(given))
    print(columns(record["results"]["checks"]))
    save([record], given)
    sys.exit(not record["results"]["passed"])


def measure(settings: Settings) -> dict[str, Any]:
    """Run all checks and return the record."""
    device = device_of(settings)
    record = make_record("parity", settings, device)
    with exact_float32():
        checks = Golden(device).checks()
    engine = open_engine(settings)
    try:
        checks += batch_checks(engine, plan_of(settings, engine.info), pick_dtype(settings.model_dtype, device))
        recompiles = engine.workload().shape_misses
    finally:
        engine.close()
    rows = [{**asdict(check), "passed": check.passed} for check in checks]
    passed = all(check.passed for check in checks)
    return {**record, "results": {"passed": passed, "checks": rows, "recompiles": recompiles}}


# -- alone and among others


def batch_checks(engine: Engine, plan: BlockPlan, dtype: torch.dtype) -> list[Check]:
    """Compare the audio of an utterance alone with its audio among others that start before or after it."""
    on_cpu = engine.info.device.startswith("cpu")
    if on_cpu:
        plan = replace(plan, blocks=plan.blocks[:_CPU_BLOCKS])
    voice = engine.encode_voice(reference_clip(10.0)).result()
    # Different texts and seeds, every second utterance without a voice. The first is the one that is compared.
    utterances = [
        Utterance(text=TEXTS[i % len(TEXTS)], plan=plan, seed=i, voice=None if i % 2 else voice)
        for i in range(OTHERS + 1)
    ]
    engine.warm_up(utterances[0])
    engine.finish_warm_up()
    alone = _audio(engine.speak(utterances[0]))
    found = [difference(_among_others(engine, utterances, place), alone) for place in (0, OTHERS)]
    bounds = _EXACT if on_cpu else _GPU[dtype]
    name = f"alone and among {OTHERS} others, {str(dtype).removeprefix('torch.')}"
    largest, relative = (float(np.max(values)) for values in zip(*found, strict=True))  # NaN where one is
    return [
        Check(f"{name}: largest difference of a sample", len(found), largest, bounds[0]),
        Check(f"{name}: relative RMS difference", len(found), relative, bounds[1]),
    ]


def difference(audio: Audio, expected: Audio) -> tuple[float, float]:
    """Return the largest difference of a sample, and the RMS difference relative to the RMS of ``expected``."""
    if len(audio) != len(expected):
        return (float("inf"), float("inf"))
    found = audio - expected
    return float(np.abs(found).max()), _rms(found) / _rms(expected)


def _among_others(engine: Engine, utterances: Sequence[Utterance], place: int) -> Audio:
    """The audio of the first utterance when ``place`` of the others are submitted before it."""
    order = [*utterances[1 : place + 1], utterances[0], *utterances[place + 1 :]]
    streams = [engine.speak(utterance) for utterance in order]
    for number, stream in enumerate(streams):
        if number != place and number % _HANGS_UP == 0:
            next(stream)
            stream.cancel()
    audio = _audio(streams[place])
    for stream in streams:
        stream.cancel()
    return audio


def _audio(stream: FrameStream) -> Audio:
    return np.concatenate([frame.samples for frame in stream])


def _rms(samples: Audio) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


if __name__ == "__main__":
    main()
