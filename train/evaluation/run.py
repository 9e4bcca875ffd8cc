"""Runs the parts over the held-out set: teacher, then each checkpoint's codec and its generated speech."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from train.evaluation import phone_training, similarity, speed
from train.evaluation.heard import Heard, of_teacher
from train.evaluation.heldout import Item, digest
from train.evaluation.judges.opinion import DistillMos, DnsMos
from train.evaluation.judges.speaker import SpeakerEncoder
from train.evaluation.judges.whisper import Whisper
from train.evaluation.parts import (
    Band,
    Clicks,
    Duration,
    Figures,
    NoiseAndDistortion,
    Opinion,
    Part,
    Phones,
    Pitch,
    Row,
    Similarity,
    SpeakerLikeness,
    Words,
    measure,
)
from train.evaluation.phones import PhoneRecogniser
from train.evaluation.recogniser import Recogniser
from train.evaluation.similarity import Embedding
from train.evaluation.systems import Checkpoint, Codec, generate, open_voice
from train.tiny.corpus import Corpus
from train.tiny.latents import Analysis
from train.tiny.start import ANALYSIS

#: Measured by judges from packages (``make judge``).
JUDGED = ("opinion", "distortion", "whisper", "whisper_tiny", "speaker")
PARTS = (*JUDGED, "wer", "phones", "pitch", "similarity", "band", "duration", "clicks", "speed", "page")
#: The columns: the teacher's, and those of a checkpoint.
TEACHER, LATENTS, COPY, GENERATED = "teacher", "latents", "copy", "generated"


@dataclass(frozen=True, slots=True)
class Options:
    """How to evaluate."""

    parts: tuple[str, ...] = PARTS
    device: str = "cpu"
    threads: int | None = None
    cores: tuple[int, ...] = (1, 2)


def open_parts(names: Sequence[str], corpus: Corpus, items: Sequence[Item], folder: Path, device: str) -> list[Part]:
    """Make the measurements.

    The recogniser of phones and the embedding are trained first, or read from ``folder``. Raises JudgeMissing.
    """
    made: list[Part] = _judges(names, items)
    if "wer" in names:
        made.append(Words(Recogniser()))
    if "phones" in names:
        path = folder / "phones.safetensors"
        known = PhoneRecogniser.load(path) if path.exists() else phone_training.train(corpus, path, device=device)
        made.append(Phones(known))
    if "pitch" in names:
        made.append(Pitch())
    if "similarity" in names:
        path = folder / "speakers.npz"
        if not path.exists():
            similarity.fit(corpus).save(path)
        made.append(Similarity(Embedding.load(path), items))
    if "band" in names:
        made.append(Band())
    if "duration" in names:
        made.append(Duration())
    if "clicks" in names:
        made.append(Clicks())
    return made


def _judges(names: Sequence[str], items: Sequence[Item]) -> list[Part]:
    makers: dict[str, Callable[[], Part]] = {
        "opinion": lambda: Opinion(DistillMos()),
        "distortion": lambda: NoiseAndDistortion(DnsMos()),
        "whisper": lambda: Words(Whisper("base"), "whisper"),
        "whisper_tiny": lambda: Words(Whisper("tiny.en"), "whisper_tiny"),
        "speaker": lambda: SpeakerLikeness(SpeakerEncoder(), items),
    }
    return [make() for name, make in makers.items() if name in names]


def evaluator_digests(parts: Sequence[Part]) -> dict[str, str]:
    """Digests of what was trained to listen: figures of different evaluators cannot be compared."""
    return {part.name: part.digest for part in parts if isinstance(part, Phones | Similarity)}


def evaluate(
    items: Sequence[Item], checkpoints: Sequence[Checkpoint], parts: Sequence[Part], options: Options
) -> tuple[dict[str, Any], dict[str, Sequence[Heard]]]:
    """Measure everything. Returns the ``results`` of the record, and what was heard by column."""
    heard: dict[str, Sequence[Heard]] = {TEACHER: [of_teacher(item.recording) for item in items]}
    rows = {TEACHER: _rows(parts, items, heard[TEACHER], TEACHER)}
    described = []
    listening = bool(parts) or "page" in options.parts
    for checkpoint in checkpoints:
        about = _describe(checkpoint)
        for name, sounds in _columns(checkpoint, items, options) if listening else ():
            column = f"{checkpoint.name}/{name}"
            heard[column] = sounds
            rows[column] = _rows(parts, items, sounds, column)
            about[name] = _figures(parts, items, rows[column])
        described.append({**about, **_speeds(checkpoint, options)})
    results = {
        "set": describe_set(items),
        "evaluators": evaluator_digests(parts),
        TEACHER: _figures(parts, items, rows[TEACHER]),
        "checkpoints": described,
        "items": [
            {
                "key": item.recording.key,
                "text": item.recording.text,
                "speaker": item.recording.speaker,
                "group": item.group,
                "heard": {column: found[place] for column, found in rows.items()},
            }
            for place, item in enumerate(items)
        ],
    }
    return results, heard


def describe_set(items: Sequence[Item]) -> dict[str, Any]:
    """What the figures are about."""
    speakers = {group: {i.recording.speaker for i in items if i.group == group} for group in ("seen", "unseen")}
    return {
        "texts": len(items),
        "teacher": sorted({item.recording.teacher for item in items}),
        "speakers_seen": len(speakers["seen"]),
        "speakers_unseen": len(speakers["unseen"]),
        "digest": digest(items),
    }


def _columns(checkpoint: Checkpoint, items: Sequence[Item], options: Options) -> Iterator[tuple[str, list[Heard]]]:
    codec = Codec.load(checkpoint, options.device)
    if (beside := checkpoint.files().dit.parent / ANALYSIS).is_file():
        analysis = Analysis.load(beside)
        yield LATENTS, [codec.decode(analysis.latents(item.recording.samples)) for item in items]
    yield COPY, [codec.copy(item.recording) for item in items]
    del codec
    with (
        open_voice(checkpoint, device=options.device, threads=options.threads) as voice,
        tqdm(total=len(items), desc=f"{checkpoint.name} speaks") as progress,
    ):
        spoken = generate(voice, items, lambda: progress.update() and None)
    yield GENERATED, spoken


def _rows(parts: Sequence[Part], items: Sequence[Item], heard: Sequence[Heard], column: str) -> list[Mapping[str, Row]]:
    """What each part says of each item."""
    wanted = [part for part in parts if not part.generated_only or column.endswith(f"/{GENERATED}")]
    pairs = tqdm(zip(items, heard, strict=True), total=len(items), desc=f"listening to {column}")
    return [{part.name: part.row(item, one) for part in wanted} for item, one in pairs]


def _figures(
    parts: Sequence[Part], items: Sequence[Item], rows: Sequence[Mapping[str, Row]]
) -> dict[str, Mapping[str, Figures]]:
    measured = [part for part in parts if part.name in rows[0]]
    return {part.name: measure(part, items, [row[part.name] for row in rows]) for part in measured}


def _describe(checkpoint: Checkpoint) -> dict[str, Any]:
    return {"name": checkpoint.name, "digest": checkpoint.digest(), "bytes": checkpoint.nbytes()}


def _speeds(checkpoint: Checkpoint, options: Options) -> dict[str, Any]:
    if "speed" not in options.parts:
        return {}
    # Threads of this process would take the cores that are measured.
    torch.set_num_threads(1)
    return {"speed": {str(n): speed.measure(checkpoint, n, device=options.device) for n in options.cores}}
