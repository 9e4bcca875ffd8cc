"""A second sentence after a first: generated on its own, or with the first one's latents as its prefix.

python -m train.evaluation.joins --voices 4 --out train/tiny/results/joins.json

For every bundled voice and pair of sentences both ways start from the same first sentence. Measured is the jump from
the last second of the first to the first second of the second, in pitch (semitones) and level (dB), how many words of
the second a recogniser mishears, and how long its first block takes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.engines import TEXTS, load_weights, open_model, plan_of
from bench.record import commit, environment, load_average
from echo.engines.load import load_engine
from echo.model.base import DecodeState, Prefix
from echo.model.echo import EchoModel, EchoVoice
from echo.settings import load_settings
from echo.types import MAX_LATENTS, SAMPLE_RATE, Audio, BlockPlan
from echo.voices.reference import load_voice
from echo.voices.voice import ClipVoice
from train.evaluation.distance import edits
from train.evaluation.heard import resampled
from train.evaluation.measure import pitch_hz, rms, speech_span
from train.evaluation.recogniser import Recogniser, words_of
from train.tiny.corpus import RATE

#: The patch of the latent encoder: a prefix that ends within a patch is padded with zeros there.
_PATCH = 4
_EDGE_S = 1.0


@dataclass(frozen=True)
class Spoken:
    """A sentence: its latents up to the end of speech, samples, the state behind them, seconds to the first block."""

    latents: torch.Tensor
    samples: Audio
    prefix: Prefix
    state: DecodeState
    first_s: float


def speak(
    model: EchoModel,
    plan: BlockPlan,
    text: str,
    voice: EchoVoice,
    seed: tuple[int, int],
    after: Spoken | None = None,
) -> Spoken:
    """Speak a text block by block; ``after`` is the speech that it continues, whose text ``text`` includes."""
    started, first_s = time.perf_counter(), 0.0
    conditions = model.conditions(model.tokenize(text), voice)
    prefix = model.empty_prefix() if after is None else after.prefix
    state = None if after is None else after.state
    spoken = [] if after is None else [after.latents]
    begin = sum(len(part) for part in spoken)
    pieces: list[Audio] = []
    for number, block in enumerate(plan.blocks):
        if begin + sum(len(part) for part in spoken[after is not None :]) + block.size > MAX_LATENTS:
            break
        sampler = model.sampler(conditions, prefix, block, plan.params, (*seed, number, 0))
        while not sampler.done:
            model.step([sampler])
        start = sum(len(part) for part in spoken)
        spoken.append(sampler.latents)
        end = model.speech_end(spoken, plan.tail, last=number == len(plan.blocks) - 1)()
        new = sampler.latents if end is None else sampler.latents[: max(0, end - start)]
        if len(new):
            ((samples, state),) = model.decode([state], [new])()
            pieces.append(samples)
        first_s = first_s or time.perf_counter() - started
        if end is not None:
            spoken[-1] = new
            break
        prefix = model.extend(prefix, sampler.latents)
    own = torch.cat(spoken[after is not None :])
    whole = own[: len(own) // _PATCH * _PATCH] if after is None else own
    assert state is not None
    return Spoken(whole, np.concatenate(pieces), model.extend(model.empty_prefix(), whole), state, first_s)


def jump(before: Audio, after: Audio) -> tuple[float | None, float] | None:
    """Return the jump in pitch (semitones, None: not voiced) and level (dB) between the edges of two sentences."""
    spans = speech_span(before, SAMPLE_RATE), speech_span(after, SAMPLE_RATE)
    if spans[0] is None or spans[1] is None:
        return None
    end, start = round(spans[0][1] * SAMPLE_RATE), round(spans[1][0] * SAMPLE_RATE)
    edge = round(_EDGE_S * SAMPLE_RATE)
    last, first = before[max(0, end - edge) : end], after[start : start + edge]
    pitches = pitch_hz(last, SAMPLE_RATE), pitch_hz(first, SAMPLE_RATE)
    level = abs(20 * math.log10(rms(first) / rms(last)))
    if pitches[0] is None or pitches[1] is None:
        return None, level
    return abs(12 * math.log2(pitches[1] / pitches[0])), level


def figures(
    jumps: Sequence[tuple[float | None, float] | None], wrong: Sequence[int], said: int, first: Sequence[float]
) -> dict[str, Any]:
    """Sum up one way of generating."""
    there = [each for each in jumps if each is not None]
    pitches = [pitch for pitch, _ in there if pitch is not None]
    return {
        "pairs": len(jumps),
        "without_speech": len(jumps) - len(there),
        "pitch_jump_semitones": round(statistics.mean(pitches), 2),
        "pitch_jump_stderr": round(statistics.stdev(pitches) / math.sqrt(len(pitches)), 2),
        "level_jump_db": round(statistics.mean(level for _, level in there), 2),
        "level_jump_stderr": round(statistics.stdev(level for _, level in there) / math.sqrt(len(there)), 2),
        "word_error_rate": round(sum(wrong) / said, 3),
        "first_block_s": round(statistics.median(first), 3),
    }


def main() -> None:
    """Measure both ways and write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--voices", type=int, default=6)
    arguments = parser.parse_args()
    settings = load_settings(model_repo="tiny", device="cpu", cpu_threads=1)
    before = load_average()
    engine = load_engine(settings, None)
    info = engine.info
    engine.close()
    model = open_model(settings, load_weights(settings))
    plan = plan_of(settings, info)
    recogniser = Recogniser()
    found: dict[str, tuple[list[Any], list[int], list[float]]] = {"separate": ([], [], []), "continued": ([], [], [])}
    said = 0
    clips = sorted(Path(settings.voice_folders[0]).glob("*.flac"))[: arguments.voices]
    for clip in clips:
        voice = model.encode_voice(load_voice(ClipVoice(audio=clip.read_bytes())).audio)
        for seed in range(arguments.seeds):
            for one, two in itertools.pairwise(TEXTS):
                first = speak(model, plan, f"[S1] {one}", voice, (seed, 0))
                words = words_of(two)
                said += len(words)
                ways = {
                    "separate": speak(model, plan, f"[S1] {two}", voice, (seed, 1)),
                    "continued": speak(model, plan, f"[S1] {one} {two}", voice, (seed, 1), after=first),
                }
                for name, second in ways.items():
                    jumps, wrong, times = found[name]
                    jumps.append(jump(first.samples, second.samples))
                    wrong.append(edits(words, recogniser.words(resampled(second.samples, SAMPLE_RATE, RATE))))
                    times.append(second.first_s)
    result = {
        **commit(),
        **environment(torch.device("cpu")),
        "voices": len(clips),
        **before,
        **{name: figures(jumps, wrong, said, times) for name, (jumps, wrong, times) in found.items()},
    }
    text = json.dumps(result, indent=1)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
