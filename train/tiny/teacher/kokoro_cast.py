"""Chooses Kokoro's speakers: candidates are made, judged, and kept where they sound natural and unlike one another.

``python -m train.tiny.teacher.kokoro_cast FOLDER --workers 2`` writes ``kokoro_cast.toml`` beside this module. It needs
the judges (``make judge``). Every candidate says one sentence; what was judged is kept in FOLDER, so that a stopped
command goes on where it was. The speakers are named by sex and number, after nobody.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from tqdm import tqdm

from echo.files import atomic_write
from train.tiny.teacher.kokoro import RATE as KOKORO_RATE
from train.tiny.teacher.kokoro import Kokoro, Style

CAST = Path(__file__).with_name("kokoro_cast.toml")
SENTENCE = "The little boat turned slowly toward the harbor, while seven gulls were watching from the wall."
DIFFERENT = 0.89
"""Most that two speakers may be alike: the cosine by resemblyzer on the same sentence of 5 seconds. One speaker with
two sentences of that length is at 0.92 on average of eleven, at least at 0.90; two speakers with the same sentence,
which brings them 0.03 closer than two sentences, at 0.66."""
NATURAL = 4.0
"""Least opinion that DistillMOS may predict."""
HELD_OUT_EVERY = 8
"""Of the speakers, by likeness to the rest, one in so many is never trained on."""

_LEFT_OUT = frozenset({"af_alloy", "am_echo", "am_onyx", "af_nova", "bm_fable"})
"""Named after a commercial provider's voices."""
_POOR = frozenset({"jf_gongitsune", "jf_nezumi", "jf_tebukuro", "zf_xiaoyi", "zm_yunxia"})
"""Timbres that DistillMOS gives less than 3.3 in English."""
_WHISPERED = "af_nicole"
_BLENDS = 110
_WEIGHTS = (0.3, 0.7)
_PITCH = (0.86, 1.16)
_SPEED = (0.9, 1.1)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A voice that may become a speaker.

    Attributes:
        sex: ``f`` or ``m``.
        style: How Kokoro makes it.
    """

    sex: str
    style: Style


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """A candidate and what the judges say of its sentence.

    Attributes:
        number: Which candidate.
        opinion: By DistillMOS.
        pitch: Median fundamental frequency in hertz.
        embedding: By resemblyzer.
    """

    number: int
    opinion: float
    pitch: float
    embedding: tuple[float, ...]


def candidates(packs: Sequence[str]) -> list[Candidate]:
    """Stock English voices, other languages' timbres with an English prosody, and blends; always the same."""
    rng = random.Random("Kokoro's candidates")
    usable = sorted(set(packs) - _LEFT_OUT - _POOR)
    english = [name for name in usable if name[0] in "ab" and name != _WHISPERED]
    found = [
        Candidate(name[1], Style(timbre=((name, 1.0),), prosody=((name, 1.0),), british=name[0] == "b"))
        for name in english
    ]
    for name in usable:
        if name not in english:
            leader = rng.choice([one for one in english if one[1] == name[1]])
            style = Style(timbre=((name, 1.0),), prosody=((leader, 1.0),), british=leader[0] == "b")
            found.append(Candidate(name[1], style))
    for number in range(_BLENDS):
        sex = "fm"[number % 2]
        of_sex = [name for name in usable if name[1] == sex]
        mixed = rng.sample(of_sex, rng.choice((1, 2, 2, 3)))
        leader = rng.choice([name for name in english if name[1] == sex])
        style = Style(
            timbre=tuple(zip(mixed, _weights(len(mixed), rng), strict=True)),
            prosody=((leader, 1.0),),
            pitch=round(rng.uniform(*_PITCH), 3),
            speed=round(rng.uniform(*_SPEED), 3),
            british=leader[0] == "b",
        )
        found.append(Candidate(sex, style))
    return found


def choose(judged: Sequence[Judged], *, different: float = DIFFERENT, natural: float = NATURAL) -> list[Judged]:
    """The largest set that a greedy search finds in which no two are alike; stock voices, which come first, win ties.

    Candidates are taken in the order of how few others they are like, so that a voice in a crowd does not keep several
    out. Only how natural a voice is at all counts, not which is more natural: the judge must not choose the cast.
    """
    good = [one for one in judged if one.opinion >= natural]
    alike = np.array([[np.dot(one.embedding, other.embedding) for other in good] for one in good])
    left = set(range(len(good)))
    chosen: list[int] = []
    while left:
        crowd = {place: sum(alike[place, other] > different for other in left) for place in left}
        best = min(left, key=lambda place: (crowd[place], good[place].number))
        chosen.append(best)
        left = {place for place in left if place != best and alike[best, place] <= different}
    return sorted((good[place] for place in chosen), key=lambda one: one.number)


def table(everybody: Sequence[Candidate], chosen: Sequence[Judged]) -> str:
    """The chosen speakers as TOML."""
    counts = {"f": 0, "m": 0}
    lines = [
        "# Kokoro's speakers, chosen by `python -m train.tiny.teacher.kokoro_cast`; do not edit.",
        f"# Every two are below {DIFFERENT} by resemblyzer, every one at least {NATURAL} by DistillMOS.",
        "# opinion: DistillMOS of one sentence; hertz: its median pitch.",
    ]
    for place, one in enumerate(chosen):
        candidate = everybody[one.number]
        style = candidate.style
        counts[candidate.sex] += 1
        lines += [
            "",
            "[[speaker]]",
            f'name = "kokoro-{candidate.sex}{counts[candidate.sex]:02d}"',
            f"timbre = {_inline(style.timbre)}",
            f"prosody = {_inline(style.prosody)}",
            f"pitch = {style.pitch}",
            f"speed = {style.speed}",
            f"british = {str(style.british).lower()}",
            f"held_out = {str(place % HELD_OUT_EVERY == HELD_OUT_EVERY // 2).lower()}",
            f"opinion = {one.opinion:.2f}",
            f"hertz = {one.pitch:.0f}",
        ]
    return "\n".join(lines) + "\n"


def judge(numbers: Sequence[int], folder: Path) -> None:
    """Let candidates say the sentence, and write what the judges say into ``folder``, a file each."""
    from train.evaluation.judges.opinion import DistillMos
    from train.evaluation.judges.speaker import SpeakerEncoder
    from train.evaluation.pitch import contour
    from train.tiny.corpus import RATE

    everybody = candidates(packs())
    kokoro, opinion, encoder = Kokoro(), DistillMos(), SpeakerEncoder()
    for number in numbers:
        path = folder / f"{number:03d}.json"
        if path.exists():
            continue
        speech = kokoro.speak(SENTENCE, everybody[number].style)
        samples = soxr.resample(speech.samples, KOKORO_RATE, RATE).astype(np.float32)
        pitch = contour(samples)
        voiced = pitch[pitch > 0]
        found = Judged(
            number,
            opinion(samples),
            float(np.median(voiced)) if len(voiced) else 0.0,
            tuple(encoder(samples).tolist()),
        )
        with atomic_write(path) as unfinished:
            unfinished.write_text(json.dumps(asdict(found)), encoding="utf-8")


def packs() -> list[str]:
    """Names of the voice packs that are there."""
    from train.tiny.teacher.kokoro import packs_folder

    return [path.stem for path in packs_folder().glob("*.bin")]


def _weights(count: int, rng: random.Random) -> list[float]:
    if count == 1:
        return [1.0]
    if count == 2:
        first = round(rng.uniform(*_WEIGHTS), 2)
        return [first, round(1.0 - first, 2)]
    drawn = [rng.gammavariate(2.0, 1.0) for _ in range(count)]  # Dirichlet(2)
    parts = [round(one / sum(drawn), 2) for one in drawn[:-1]]
    return [*parts, round(1.0 - sum(parts), 2)]


def _inline(parts: Sequence[tuple[str, float]]) -> str:
    return "{" + ", ".join(f"{name} = {weight}" for name, weight in parts) + "}"


def read_judged(folder: Path) -> list[Judged]:
    """What ``judge`` wrote, by number."""
    raw: list[Mapping[str, Any]] = [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))
    ]
    return [Judged(one["number"], one["opinion"], one["pitch"], tuple(one["embedding"])) for one in raw]


def main(arguments: Sequence[str] | None = None) -> None:
    """Judge all candidates and write the cast."""
    parser = argparse.ArgumentParser(prog="python -m train.tiny.teacher.kokoro_cast", description=__doc__)
    parser.add_argument("folder", type=Path, help="what was judged is kept here")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=CAST)
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    everybody = candidates(packs())
    slices = [list(range(place, len(everybody), 4 * options.workers)) for place in range(4 * options.workers)]
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        list(tqdm(pool.map(judge, slices, [options.folder] * len(slices)), total=len(slices)))
    judged = read_judged(options.folder)
    chosen = choose(judged)
    with atomic_write(options.out) as path:
        path.write_text(table(everybody, chosen), encoding="utf-8")
    print(f"{len(chosen)} of {len(judged)} candidates; {sum(one.opinion >= NATURAL for one in judged)} sound natural")


if __name__ == "__main__":
    main()
