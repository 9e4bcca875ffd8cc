"""What the words of generated speech are lost by: texts that were never read, or voices that are known too little.

    python -m train.evaluation.gap tiny runs/before --keep gap

Two sets of texts, each said by Kokoro's voices of the training: held-out ones, and ones that the same voice said in
the training. Every text is said twice, in the voice that said it and in that of hibari, which said most of the
training; by the teacher too. The recogniser is Whisper base, the predictor of opinions DistillMOS. It needs what
`make natural-teachers judge` installs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from echo.errors import LoadError
from echo.sources import TINY_MODEL
from train.evaluation.heard import of_teacher
from train.evaluation.heldout import Item, reference
from train.evaluation.judges.opinion import DistillMos
from train.evaluation.judges.packages import JudgeMissing
from train.evaluation.judges.whisper import Whisper
from train.evaluation.parts import Opinion, Part, Words, judged
from train.evaluation.record import recorded
from train.evaluation.retold import retold
from train.evaluation.systems import Checkpoint, generate, open_voice
from train.evaluation.table import publish
from train.tiny.corpus import Corpus, Split
from train.tiny.teacher.library import TeacherMissing
from train.tiny.teacher.speakers import cast
from train.tiny.teacher.studio import Studio

_TEACHER = "kokoro"
#: Who said most of the training, see train/tiny/teacher/speakers.py.
BEST_KNOWN = "hibari-heart"
_SPLITS: Mapping[str, Split] = {"held out": "heldout_text", "trained on": "train"}


def items_of(corpus: Corpus, split: Split, count: int, *, seed: int = 0) -> list[Item]:
    """Texts of a part as Kokoro's voices say them, all different; raises ValueError where there are too few."""
    rng = np.random.default_rng(seed)
    items: list[Item] = []
    texts: set[str] = set()
    for index in rng.permutation(corpus.split(split)).tolist():
        recording = corpus[index]
        if recording.teacher == _TEACHER and recording.text not in texts:
            texts.add(recording.text)
            items.append(Item(recording, corpus[reference(corpus, index)], "seen"))
            if len(items) == count:
                return items
    raise ValueError(f"The corpus has {len(items)} texts of {_TEACHER} in {split}, but {count} were asked for.")


def in_best_known(items: Sequence[Item], corpus: Corpus, studio: Studio) -> list[Item]:
    """The same texts as hibari says them, to be said in its voice, which said most of the training."""
    known = corpus.of_speaker(BEST_KNOWN)
    if not known:
        raise ValueError(f"The corpus has no recording of {BEST_KNOWN}.")
    clip = corpus[reference(corpus, known[0])]
    speaker = next(speaker for speaker in cast("natural") if speaker.name == BEST_KNOWN)
    return retold(speaker, clip, [item.recording.text for item in items], studio)


def evaluate(
    checkpoints: Sequence[Checkpoint], corpus: Corpus, count: int, parts: Sequence[Part], studio: Studio
) -> dict[str, Any]:
    """Figures of the teacher and of every checkpoint for each set of texts and each choice of voice."""
    own = {name: items_of(corpus, split, count) for name, split in _SPLITS.items()}
    sets = {name: {"own": items, "best known": in_best_known(items, corpus, studio)} for name, items in own.items()}
    found: dict[str, Any] = {
        "texts": count,
        "teacher": {
            name: {
                whose: judged(said, [of_teacher(item.recording) for item in said], parts)
                for whose, said in voices.items()
            }
            for name, voices in sets.items()
        },
        "checkpoints": [],
    }
    for checkpoint in checkpoints:
        of_checkpoint: dict[str, Any] = {"name": checkpoint.name, "digest": checkpoint.digest()}
        with open_voice(checkpoint, threads=1) as voice, tqdm(total=4 * count, desc=checkpoint.name) as bar:
            for name, voices in sets.items():
                of_checkpoint[name] = {
                    whose: judged(said, generate(voice, said, bar.update), parts) for whose, said in voices.items()
                }
        found["checkpoints"].append(of_checkpoint)
    return found


def main() -> None:
    """Evaluate from the command line."""
    options = argparse.ArgumentParser(
        prog="python -m train.evaluation.gap",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("checkpoints", nargs="*", default=[TINY_MODEL], help="model folders; default: the shipped one")
    options.add_argument("--work", type=Path, default=Path("runs/train-tiny"), help="the run whose texts are said")
    options.add_argument("--texts", type=int, default=60)
    options.add_argument("--keep", metavar="NAME", help="keep the result as train/tiny/results/NAME.json")
    given = options.parse_args()
    torch.set_num_threads(1)
    try:
        parts: list[Part] = [Words(Whisper("base"), "whisper"), Opinion(DistillMos())]
        checkpoints = [Checkpoint.named(source) for source in given.checkpoints]
        results = evaluate(checkpoints, Corpus.open(given.work / "corpus"), given.texts, parts, Studio())
    except (ValueError, FileNotFoundError, LoadError, TeacherMissing, JudgeMissing) as error:
        sys.exit(str(error))
    record = recorded("gap", "train.evaluation.gap", sys.argv[1:], "cpu", results)
    publish(record, given.keep)


if __name__ == "__main__":
    main()
