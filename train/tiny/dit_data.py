"""What the DiT learns from: latents, phones and texts of a corpus, computed once and then drawn from tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from echo.files import atomic_write
from echo.text.tokenize import encode
from train.tiny.corpus import RATE, Corpus, Recording, Split
from train.tiny.latents import Analysis
from train.tiny.teacher.phones import PHONES

#: Seconds of a latent: 1,024 samples at the corpus's rate.
LATENT_SECONDS = 1024 / RATE
#: Phones per latent that are told apart, at its first and third quarter.
LABELS = 2
#: What the phone labels of a latent outside speech say.
SILENT = PHONES.index("pau")
SPLITS: tuple[Split, ...] = ("train", "heldout_text", "heldout_speaker")
_SHARD = 500


@dataclass(frozen=True, slots=True, eq=False)
class Utterances:
    """A corpus as tensors, all on one device.

    latents  [frames, 80] f16   all utterances behind one another
    labels   [frames, 2] u8     index of the phone at the first and third quarter of a latent
    offset   [n] i64            first frame of an utterance
    length   [n] i64            its frames
    ids      [n, bytes] u8      its text as the tokenizer gives it, padded with 0
    bytes    [n] i64            how many ids
    centres  [n, bytes] f32     when a byte is spoken, in latents; -1 for the begin mark, the tag and padding
    phones   [n, phones] u8     what is spoken, without pauses, padded with 0
    sounds   [n] i64            how many phones
    speaker  [n] i64            who speaks, an index into ``speakers``
    split    [n] i64            an index into ``SPLITS``
    speakers                    names
    keys                        what the recordings are called
    """

    latents: Tensor
    labels: Tensor
    offset: Tensor
    length: Tensor
    ids: Tensor
    bytes: Tensor
    centres: Tensor
    phones: Tensor
    sounds: Tensor
    speaker: Tensor
    split: Tensor
    speakers: tuple[str, ...]
    keys: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.offset)

    def to(self, device: torch.device | str) -> Self:
        """Return a copy on ``device``."""
        tensors: dict[str, Any] = {
            name: value for name in self.__slots__ if isinstance(value := getattr(self, name), Tensor)
        }
        return replace(self, **{name: tensor.to(device) for name, tensor in tensors.items()})

    @classmethod
    def gather(
        cls,
        items: Sequence[dict[str, Tensor]],
        speakers: Sequence[str],
        splits: Sequence[int],
        keys: Sequence[str] = (),
    ) -> Self:
        """Put what ``describe`` returned for several recordings together; keys may be left out where nobody asks."""
        names = tuple(sorted(set(speakers)))
        length = torch.tensor([len(item["latents"]) for item in items])
        return cls(
            latents=torch.cat([item["latents"] for item in items]),
            labels=torch.cat([item["labels"] for item in items]),
            offset=length.cumsum(0) - length,
            length=length,
            ids=_padded([item["ids"] for item in items], 0),
            bytes=torch.tensor([len(item["ids"]) for item in items]),
            centres=_padded([item["centres"] for item in items], -1),
            phones=_padded([item["phones"] for item in items], 0),
            sounds=torch.tensor([len(item["phones"]) for item in items]),
            speaker=torch.tensor([names.index(speaker) for speaker in speakers]),
            split=torch.tensor(splits),
            speakers=names,
            keys=tuple(keys),
        )


def describe(recording: Recording, analysis: Analysis) -> dict[str, Tensor]:
    """Return latents, labels, ids, centres, phones of a recording; ValueError for a text that normalising changes."""
    latents = analysis.latents(recording.samples).to(torch.float16)
    ids = encode(recording.text)
    tag = len(ids) - len(recording.characters)
    if bytes(ids[tag:]) != recording.text.encode():
        raise ValueError(
            f"{recording.key}: the tokenizer rewrites this text, so its bytes have no times: {recording.text!r}"
        )
    centres = np.concatenate((np.full(tag, -1.0), recording.characters / LATENT_SECONDS))
    sounds = [PHONES.index(span.symbol) for span in recording.phones if span.symbol != PHONES[SILENT]]
    return {
        "latents": latents,
        "labels": _labels(recording, len(latents)),
        "ids": torch.tensor(ids, dtype=torch.uint8),
        "centres": torch.from_numpy(centres).float(),
        "phones": torch.tensor(sounds, dtype=torch.uint8),
    }


def build(
    corpus: Corpus,
    analysis: Analysis,
    folder: Path,
    *,
    workers: int = 1,
    progress: Callable[[int, int], object] | None = None,
) -> None:
    """Write the tensors of a corpus into ``folder``: of those recordings only that are not in it yet.

    progress  called with the numbers of finished and of all recordings, first with those found
    """
    folder.mkdir(parents=True, exist_ok=True)
    split_of = {index: code for code, split in enumerate(SPLITS) for index in corpus.split(split)}
    known = {key for path in folder.glob("*.safetensors") for key in _names(path, "keys")}
    todo = [index for index in range(len(corpus)) if corpus.describe(index)[0] not in known]
    done = len(corpus) - len(todo)
    if progress is not None:
        progress(done, len(corpus))
    first = 1 + max((int(path.stem) for path in folder.glob("*.safetensors")), default=-1)
    groups = [todo[start : start + _SHARD] for start in range(0, len(todo), _SHARD)]
    # Spawned, because torch's threads do not survive a fork.
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        jobs = [
            pool.submit(
                _write_shard,
                folder / f"{number:05d}.safetensors",
                corpus.part(group),
                analysis,
                [split_of[index] for index in group],
            )
            for number, group in enumerate(groups, start=first)
        ]
        for job in as_completed(jobs):
            done += job.result()
            if progress is not None:
                progress(done, len(corpus))


def load(folder: Path) -> Utterances:
    """Read what ``build`` wrote; raises FileNotFoundError when nothing is there."""
    items: list[dict[str, Tensor]] = []
    speakers: list[str] = []
    splits: list[int] = []
    keys: list[str] = []
    for path in sorted(folder.glob("*.safetensors")):
        tensors = load_file(path)
        items += _items(tensors)
        speakers += _names(path, "speakers")
        splits += tensors["split"].tolist()
        keys += _names(path, "keys")
    if not items:
        raise FileNotFoundError(f"{folder} holds no latents; run python -m train.tiny --only analysis")
    return Utterances.gather(items, speakers, splits, keys)


def _write_shard(path: Path, corpus: Corpus, analysis: Analysis, splits: Sequence[int]) -> int:
    recordings = [corpus[index] for index in range(len(corpus))]
    items = [describe(recording, analysis) for recording in recordings]
    tensors = {name: torch.cat([item[name] for item in items]) for name in items[0]}
    for name in ("latents", "ids", "phones"):
        tensors[f"{name}_count"] = torch.tensor([len(item[name]) for item in items])
    tensors["split"] = torch.tensor(splits)
    names = {
        "keys": "\n".join(recording.key for recording in recordings),
        "speakers": "\n".join(recording.speaker for recording in recordings),
    }
    with atomic_write(path) as unfinished:
        save_file(tensors, unfinished, metadata=names)
    return len(recordings)


def _names(path: Path, name: str) -> list[str]:
    with safe_open(path, framework="pt") as file:
        return str(file.metadata()[name]).split("\n")


def _items(tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    counts = {name: tensors[f"{name}_count"].tolist() for name in ("latents", "ids", "phones")}
    kinds = {"latents": "latents", "labels": "latents", "ids": "ids", "centres": "ids", "phones": "phones"}
    parts = {name: torch.split(tensors[name], counts[kind]) for name, kind in kinds.items()}
    for i in range(len(tensors["split"])):
        yield {name: part[i] for name, part in parts.items()}


def _labels(recording: Recording, frames: int) -> Tensor:
    """Index of the phone at the first and third quarter of every latent, ``[frames, 2]``; silence outside phones."""
    at = (np.arange(frames * LABELS) + 0.5) / LABELS * LATENT_SECONDS
    labels = np.full(len(at), SILENT, dtype=np.uint8)
    for span in recording.phones:
        labels[(at >= span.start) & (at < span.end)] = PHONES.index(span.symbol)
    return torch.from_numpy(labels).view(frames, LABELS)


def _padded(rows: Sequence[Tensor], value: float) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value)
