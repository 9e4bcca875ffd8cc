"""What sizing the blocks does to the embedded model's speech: the same texts and seeds with two presets.

    python -m train.evaluation.plans --texts 40

Compares the words that a recogniser hears, how long the speech is, and whether it ends. Not a benchmark: it may run
beside anything.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.plans import corpus, cost, plans
from bench.record import columns
from echo.engines.block import BlockEngine
from echo.engines.load import load_engine
from echo.settings import load_settings
from echo.sizing import sized_plan
from echo.sources import TINY_MODEL
from echo.text import split
from echo.text.pack import estimate_seconds
from echo.types import LATENT_S, Audio, BlockPlan, TextRules, Utterance
from train.evaluation.distance import edits, rate, uncertainty
from train.evaluation.heard import resampled
from train.evaluation.recogniser import Recogniser, words_of
from train.tiny.corpus import RATE

#: Characters of a text at most: what the embedded model reads in one piece.
_LONGEST = 140


@dataclass(slots=True)
class Heard:
    """What one plan made of the texts."""

    seconds: list[float]
    errors: list[int]
    words: list[int]
    unended: int = 0
    row_latents: float = 0.0


def listen(texts: Sequence[str], by_name: dict[str, BlockPlan]) -> dict[str, Heard]:
    """Have the embedded model say every text with every plan and the same seed."""
    settings = load_settings({}, model_repo=TINY_MODEL, device="cpu", cpu_threads=1)
    engine, recogniser = load_engine(settings, None), Recogniser()
    rules = engine.info.chunk_rules
    found = {name: Heard([], [], []) for name in by_name}
    try:
        for seed, text in enumerate(texts):
            chunk = split(text, TextRules(), rules)[0]
            said = words_of(chunk.text)
            estimate_s = estimate_seconds(chunk.text, rules.chars_per_s, rules.words_per_s)
            for name, plan in by_name.items():
                sized = sized_plan(plan, estimate_s)
                audio = _say(engine, Utterance(text=chunk.text, plan=sized, seed=seed))
                heard = found[name]
                heard.seconds.append(len(audio) / engine.info.sample_rate)
                heard.unended += heard.seconds[-1] >= plan.latents * LATENT_S
                heard.errors.append(edits(said, recogniser.words(resampled(audio, engine.info.sample_rate, RATE))))
                heard.words.append(len(said))
                heard.row_latents += cost(sized, heard.seconds[-1]).row_latents
    finally:
        engine.close()
    return found


def _say(engine: BlockEngine, utterance: Utterance) -> Audio:
    return np.concatenate([np.zeros(0, np.float32), *(frame.samples for frame in engine.speak(utterance))])


def main() -> None:
    """Speak, listen and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--texts", type=int, default=40)
    given = options.parse_args()
    texts = random.Random(1).sample([text for text in corpus() if len(text) < _LONGEST], given.texts)
    found = listen(texts, plans("tiny", ["default", "sized"]))
    print(
        columns(
            [
                {
                    "plan": name,
                    "word error rate": round(rate(heard.errors, heard.words) or 0.0, 3),
                    "standard error": round(uncertainty(heard.errors, heard.words) or 0.0, 3),
                    "seconds of speech": round(sum(heard.seconds), 1),
                    "speech that did not end": heard.unended,
                    "row-latents": round(heard.row_latents),
                }
                for name, heard in found.items()
            ]
        )
    )


if __name__ == "__main__":
    main()
