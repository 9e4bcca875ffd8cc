"""Whether an utterance sounds the same alone and among fifteen others, some of whom leave: through the whole engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from bench.check import Check
from bench.loadgen import TEXTS
from bench.voice import reference
from echo.engines.base import Engine
from echo.stream import FrameStream
from echo.types import Audio, BlockPlan, Utterance, VoiceState

#: Neighbours of the utterance that is looked at.
OTHERS = 15
#: Every so many-th of them hangs up after its first frame.
_LEAVES = 3
#: Blocks of an utterance on a CPU, where a whole one among so many takes a minute.
_CPU_BLOCKS = 2
#: Largest difference of a sample (full scale is 1), and root mean square of the difference relative to the audio's own.
#: On a CPU every row is computed as if it were alone. A GPU picks its matrix kernels by the batch, which
#: changes the order of sums, and guidance multiplies the difference in every step.
_EXACT = (0.0, 0.0)
_GPU = {torch.float32: (0.01, 0.005), torch.float16: (0.1, 0.05), torch.bfloat16: (0.2, 0.1)}


def neighbour_checks(engine: Engine, plan: BlockPlan, dtype: torch.dtype) -> list[Check]:
    """Compare the audio of one utterance alone with that among others: longest sample, and relative rms."""
    on_cpu = engine.info.device.startswith("cpu")
    if on_cpu:
        plan = replace(plan, blocks=plan.blocks[:_CPU_BLOCKS])
    voice = engine.encode_voice(reference(10.0)).result()
    mix = _mix(plan, voice)
    engine.warm_up(mix[0])
    engine.warmed()
    alone = _audio(engine.speak(mix[0]))
    found = [deviation(_among(engine, mix, place), alone) for place in (0, OTHERS)]
    bounds = _EXACT if on_cpu else _GPU[dtype]
    name = f"alone and among {OTHERS}, {str(dtype).removeprefix('torch.')}"
    largest, relative = (max(values) for values in zip(*found, strict=True))
    return [
        Check(f"{name}: largest sample", len(found), largest, bounds[0]),
        Check(f"{name}: relative rms", len(found), relative, bounds[1]),
    ]


def deviation(audio: Audio, expected: Audio) -> tuple[float, float]:
    """Largest difference of a sample, and rms of the difference relative to that of what is expected."""
    if len(audio) != len(expected):
        return (float("inf"), float("inf"))
    difference = audio - expected
    return float(np.abs(difference).max()), _rms(difference) / _rms(expected)


def _mix(plan: BlockPlan, voice: VoiceState) -> list[Utterance]:
    """The utterance that is looked at, and its neighbours: other texts and seeds, every second one without a voice."""
    return [
        Utterance(text=TEXTS[i % len(TEXTS)], plan=plan, seed=i, voice=None if i % 2 else voice)
        for i in range(OTHERS + 1)
    ]


def _among(engine: Engine, mix: Sequence[Utterance], place: int) -> Audio:
    """The audio of the first when ``place`` of its neighbours are handed in before it."""
    order = [*mix[1 : place + 1], mix[0], *mix[place + 1 :]]
    streams = [engine.speak(utterance) for utterance in order]
    for number, stream in enumerate(streams):
        if number != place and number % _LEAVES == 0:
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
