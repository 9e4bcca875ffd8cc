"""What the blocks cost: row-latents per latent of speech, of a preset that sizes its blocks and of the exact one.

    python -m bench.plans                        # counted over a corpus of texts, no model needed
    python -m bench.plans --family tiny --presets default,sized

The corpus are the paragraphs of this project's own pages and sentences of everyday life. Nobody knows beforehand how
long a voice takes, so everything is counted for speech that takes less, as much and more than estimated. What sizing
does to the embedded model's speech is measured by ``python -m train.evaluation.plans``.
"""

from __future__ import annotations

import argparse
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench import ROOT
from bench.engines import TEXTS
from bench.record import columns
from echo.model.sampling.demand import row_latents
from echo.presets import Presets, load_presets
from echo.sizing import sized_plan
from echo.text import split
from echo.text.pack import estimate_seconds
from echo.types import LATENT_S, MAX_LATENTS, BlockPlan, ChunkRules, SpeechOptions, TextRules

#: Speaking time relative to the estimate.
PACES = (0.7, 0.85, 1.0, 1.15, 1.3)
#: Rows of a guided step with a voice.
_ROWS = 3
#: Latents that the embedded model takes for one text at most; the released one MAX_LATENTS.
_WINDOWS = {"echo": (MAX_LATENTS, 24), "tiny": (256, 7)}


def corpus() -> list[str]:
    """Texts as people send them: paragraphs of prose, and sentences of everyday life."""
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
    prose = [text for page in pages for text in _paragraphs(page.read_text(encoding="utf-8"))]
    lists = tomllib.loads((ROOT / "train/tiny/teacher/everyday.toml").read_text(encoding="utf-8"))
    sentences = [line for lines in lists.values() for line in lines if re.fullmatch(r"[^{}]+[.?!]", line)]
    return [*prose, *sentences, *TEXTS]


def _paragraphs(markdown: str) -> Iterator[str]:
    fenced = re.sub(r"```.*?```", "", markdown, flags=re.DOTALL)
    for paragraph in re.split(r"\n\s*\n|\n(?=- )", fenced):
        plain = " ".join(paragraph.split()).lstrip("- ")
        if len(plain) >= 20 and not plain.startswith(("#", "|", "<", "!", "[")):
            yield re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", plain).replace("`", "").replace("*", "")


@dataclass(frozen=True, slots=True)
class Cost:
    """Sums over a corpus: row-latents, latents of speech, and blocks."""

    row_latents: float = 0.0
    speech: float = 0.0
    blocks: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.row_latents + other.row_latents, self.speech + other.speech, self.blocks + other.blocks)

    @property
    def per_latent(self) -> float:
        """Row-latents per latent of speech."""
        return self.row_latents / self.speech


def cost(plan: BlockPlan, speech_s: float) -> Cost:
    """What a text costs whose speech takes so long: all blocks until it has ended and been silent."""
    ends = min(speech_s / LATENT_S, plan.latents)
    seconds = min(ends + plan.tail.zero_tail_frames, plan.latents) * LATENT_S
    made = blocks = 0
    while made < seconds / LATENT_S and blocks < len(plan.blocks):
        made += plan.blocks[blocks].size
        blocks += 1
    return Cost(row_latents(plan, _ROWS, seconds), ends, blocks)


def count(texts: Sequence[str], plan: BlockPlan, rules: ChunkRules, pace: float) -> Cost:
    """The cost of a corpus at a speaking pace relative to the estimate."""
    total = Cost()
    for text in texts:
        for chunk in split(text, TextRules(), rules):
            estimate_s = estimate_seconds(chunk.text, rules.chars_per_s, rules.words_per_s)
            total += cost(sized_plan(plan, estimate_s), pace * estimate_s)
    return total


def plans(family: str, names: Sequence[str]) -> dict[str, BlockPlan]:
    """The plans of presets by "name, streamed" or "name, whole"."""
    presets = _presets(family)
    return {
        f"{name}, {'streamed' if streaming else 'whole'}": presets.plan(
            SpeechOptions(), preset=name, streaming=streaming
        )
        for streaming in (True, False)
        for name in names
    }


def _presets(family: str) -> Presets:
    latents, layers = _WINDOWS[family]
    path = ROOT / "presets.toml"
    return load_presets(path, family, "default", nonstream_steps=None, max_latents=latents, max_layers=layers)


def main() -> None:
    """Count or listen, and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--family", choices=sorted(_WINDOWS), default="echo")
    options.add_argument("--presets", default="exact,default", help="presets to compare, the reference first")
    given = options.parse_args()
    texts, rules = corpus(), ChunkRules()
    rows = []
    for name, plan in plans(given.family, given.presets.split(",")).items():
        for pace in PACES:
            found = count(texts, plan, rules, pace)
            rows.append(
                {
                    "preset": name,
                    "speech / estimate": pace,
                    "row-latents per latent": round(found.per_latent, 1),
                    "blocks per chunk": round(found.blocks / sum(len(split(t, TextRules(), rules)) for t in texts), 2),
                }
            )
    print(f"{len(texts)} texts")
    print(columns(rows))


if __name__ == "__main__":
    main()
