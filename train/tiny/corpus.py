"""The speech corpus on disk: shards of recordings that are written once and read at random.

``python -m train.tiny.corpus FOLDER --hours 6 --seed 1 --workers 2`` builds one or continues it; ``Corpus.open``
reads whatever is finished, also while the rest is being built. A shard is two files: ``NAME.s16`` (mono samples, 16-bit
little endian at ``RATE``, one recording after the other) and ``NAME.jsonl`` (a line per recording; written last, it
marks the shard as finished). A line is an object::

    {"key": "train-0000-0007",        unique in the corpus
     "text": "How are you?",          what is said; the time of each of its bytes is below
     "speaker": "anna",               any name
     "teacher": "kokoro",             any name; the evaluation listens to one of them
     "split": "train",                or "heldout_text" or "heldout_speaker", see Corpus.split
     "offset": 154350,                first sample in NAME.s16
     "samples": 26460,                how many there are, at most LONGEST_S seconds
     "phones": [["pau", 0.0, 0.04], ["hh", 0.04, 0.11], ...],    symbol of teacher/phones.py, begin, end in seconds
     "characters": [0.06, 0.1, ...]}  seconds at which each byte of the UTF-8 text is spoken, never decreasing

Recordings of one's own need nothing but such files.
"""

import argparse
import json
import math
import os
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from echo.files import atomic_write
from train.tiny.teacher.library import TeacherMissing
from train.tiny.teacher.phones import Span
from train.tiny.teacher.speakers import CASTS, Speaker, cast
from train.tiny.teacher.studio import LOUDNESS, RATE, Studio, Take
from train.tiny.teacher.texts import Everyday, Texts, wordnet

__all__ = ["LONGEST_S", "LOUDNESS", "RATE", "Corpus", "Recording", "Span", "Split", "build"]

LONGEST_S = 256 * 1_024 / RATE
"""Seconds of the longest recording: the model's window of 256 latents."""
SHARD_S = 300.0
"""Seconds of speech in a shard: small, so that training can start early and little is lost when a build is stopped."""
HELD_OUT_OTHER_TEXTS = 12
"""Further texts of every held-out speaker, for reference clips that say something else."""
_INT16 = 32_767.0
_BEST_TEACHER = "kokoro"
#: Whose speech a copy is: nobody's that the evaluation should measure by.
_COPY = "copy"
_HELD_OUT_SHARD = "heldout"
_SOURCES = "texts.json"

Split = Literal["train", "heldout_text", "heldout_speaker"]


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """One spoken text.

    Attributes:
        key: Unique name inside the corpus.
        text: What is said.
        speaker: Who says it.
        teacher: Who made the speech, such as ``"flite"`` or ``"kokoro"``.
        samples: Mono at ``RATE``, float32 ``[n]``, root mean square ``LOUDNESS``.
        phones: The phones in order, pauses included.
        characters: Centre time in seconds of every byte of the UTF-8 text, float32 ``[bytes]``; never decreasing.
    """

    key: str
    text: str
    speaker: str
    teacher: str
    samples: NDArray[np.float32]
    phones: tuple[Span, ...]
    characters: NDArray[np.float32]


class Corpus:
    """Random access to the finished shards of a folder; usable from several processes."""

    def __init__(self, folder: Path, entries: Sequence[dict[str, Any]]) -> None:
        self._folder = folder
        self._entries = entries
        self.speakers: tuple[str, ...] = tuple(sorted({entry["speaker"] for entry in entries}))

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Read the index of every finished shard; shards that are still being written are left out.

        While a build goes on, a later call may find more shards and number the recordings otherwise; keys stay.

        Raises:
            FileNotFoundError: The folder holds no finished shard.
        """
        entries = [
            json.loads(line) | {"shard": index.stem}
            for index in sorted(Path(folder).glob("*.jsonl"))
            for line in index.read_text(encoding="utf-8").splitlines()
        ]
        if not entries:
            raise FileNotFoundError(f"{folder} has no finished shard; build one: python -m train.tiny.corpus {folder}")
        return cls(Path(folder), entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Recording:
        entry = self._entries[index]
        path = self._folder / f"{entry['shard']}.s16"
        stored = np.fromfile(path, dtype="<i2", count=entry["samples"], offset=2 * entry["offset"])
        return Recording(
            key=entry["key"],
            text=entry["text"],
            speaker=entry["speaker"],
            teacher=entry["teacher"],
            samples=stored.astype(np.float32) / np.float32(_INT16),
            phones=tuple(Span(*phone) for phone in entry["phones"]),
            characters=np.asarray(entry["characters"], dtype=np.float32),
        )

    def split(self, name: Split) -> Sequence[int]:
        """Indices of one part; the parts are disjoint and cover the corpus.

        ``train`` may be trained on. ``heldout_text``: the held-out texts, said by speakers of the training part (every
        text by one natural voice and by one other speaker). ``heldout_speaker``: everything of the held-out speakers
        (their share of the held-out texts, and other texts for reference clips).
        """
        return [index for index, entry in enumerate(self._entries) if entry["split"] == name]

    def of_speaker(self, speaker: str) -> Sequence[int]:
        """Indices of everything that one speaker says, whatever the split."""
        return [index for index, entry in enumerate(self._entries) if entry["speaker"] == speaker]

    def part(self, indices: Sequence[int]) -> Self:
        """Return a corpus of these recordings alone, in this order: small enough to be sent to another process."""
        return type(self)(self._folder, [self._entries[index] for index in indices])

    def seconds(self, index: int) -> float:
        """Duration of a recording, without reading its samples."""
        return float(self._entries[index]["samples"] / RATE)

    def describe(self, index: int) -> tuple[str, str, str]:
        """Key, text and speaker of a recording, without reading its samples."""
        entry = self._entries[index]
        return entry["key"], entry["text"], entry["speaker"]


@dataclass(frozen=True, slots=True)
class _Line:
    """One thing to record."""

    speaker: Speaker
    text: str
    split: Split


def build(
    folder: Path,
    *,
    hours: float,
    seed: int,
    workers: int = 1,
    progress: Callable[[int, int], object] | None = None,
    cast_name: str = "flite",
    speakers: Sequence[Speaker] | None = None,
    sentences: Callable[[], tuple[Sequence[str], Sequence[str]]] = wordnet,
    shard_seconds: float = SHARD_S,
) -> Corpus:
    """Record a corpus, or the missing shards of one that was begun with the same seed.

    Every shard is a shuffled mixture of the whole cast, so any number of finished shards is a balanced corpus; the
    shard of held-out recordings comes first.

    Args:
        folder: Where to; made if missing.
        hours: Hours of training speech, rounded up to whole shards.
        seed: Decides texts and order; the held-out texts are the same for every seed.
        workers: Processes that record.
        progress: Called with the numbers of finished and of all shards, first with those found.
        cast_name: Which cast speaks; a corpus keeps to one.
        speakers: Who speaks, instead of the whole cast.
        sentences: Gives natural sentences and sentences with rarer words, besides the everyday ones.
        shard_seconds: Seconds of speech in a shard.

    Returns:
        The finished corpus.

    Raises:
        TeacherMissing: A synthesiser or WordNet is not installed; the message names the package.
        ValueError: The folder was begun with another seed or cast.
    """
    folder.mkdir(parents=True, exist_ok=True)
    everybody = tuple(cast(cast_name) if speakers is None else speakers)
    _settle_sources(folder, seed, cast_name, everybody, sentences)
    names = [_HELD_OUT_SHARD, *(f"train-{number:04d}" for number in range(math.ceil(hours * 3_600 / shard_seconds)))]
    missing = [name for name in names if not (folder / f"{name}.jsonl").exists()]
    finished = len(names) - len(missing)
    if progress:
        progress(finished, len(names))
    # Spawned, because the synthesisers' libraries keep state that a fork would share.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(_record_shard, folder, name, everybody, shard_seconds) for name in missing]
        try:
            for job in as_completed(jobs):
                job.result()
                finished += 1
                if progress:
                    progress(finished, len(names))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # or the pool would first record all that is left
            raise
    return Corpus.open(folder)


def _settle_sources(
    folder: Path,
    seed: int,
    cast_name: str,
    speakers: Sequence[Speaker],
    sentences: Callable[[], tuple[Sequence[str], Sequence[str]]],
) -> None:
    """Keep sentences, seed and cast with the corpus, so that nothing can change a half-built one."""
    sources = folder / _SOURCES
    if sources.exists():
        found = json.loads(sources.read_text(encoding="utf-8"))
        if found["seed"] != seed:
            raise ValueError(
                f"{folder} was begun with seed {found['seed']}; go on with it, or build into another folder"
            )
        if found.get("cast", "flite") != cast_name:
            raise ValueError(f"{folder} was begun with the cast {found.get('cast', 'flite')}; go on with that")
        return
    Studio().require(speakers)  # a missing synthesiser is reported before any work is done
    examples, definitions = sentences()
    content = {"seed": seed, "cast": cast_name, "examples": list(examples), "definitions": list(definitions)}
    with atomic_write(sources) as path:
        path.write_text(json.dumps(content, indent=0), encoding="utf-8")


def _record_shard(folder: Path, name: str, speakers: Sequence[Speaker], shard_seconds: float) -> None:
    sources = json.loads((folder / _SOURCES).read_text(encoding="utf-8"))
    dialogue = Everyday.dialogue() if sources.get("cast") == "natural" else None
    texts = Texts(Everyday.bundled(), sources["examples"], sources["definitions"], dialogue)
    rng = random.Random(f"{sources['seed']} {name}")
    held_out = name == _HELD_OUT_SHARD
    lines = (_held_out_lines if held_out else _training_lines)(speakers, texts, rng)
    studio = Studio()
    index: list[str] = []
    samples: list[NDArray[np.int16]] = []
    offset = 0
    for line in lines:
        if not held_out and offset >= shard_seconds * RATE:
            break
        for spoken, take in _takes(studio, line):
            stored = np.rint(take.samples * _INT16).astype("<i2")
            index.append(_entry(f"{name}-{len(index):04d}", spoken, take, offset))
            samples.append(stored)
            offset += len(stored)
    with atomic_write(folder / f"{name}.s16") as path:
        path.write_bytes(np.concatenate(samples).tobytes())
    with atomic_write(folder / f"{name}.jsonl") as path:
        path.write_text("".join(index), encoding="utf-8")


def _takes(studio: Studio, line: _Line) -> Iterator[tuple[_Line, Take]]:
    """What becomes of a line: the take and its copies, as far as they are short enough; nothing if it was misread."""
    try:
        take = studio.record(line.speaker, line.text)
    except ValueError:
        return  # a teacher reads this text in its own way: draw another
    copies = line.speaker.copies if line.split == "train" else ()
    for speed in (1.0, *copies):
        played = take.played(speed)
        if len(played.samples) <= LONGEST_S * RATE:
            speaker = line.speaker
            if speed != 1.0:
                speaker = replace(speaker, name=f"{speaker.name}-x{speed}", teacher=_COPY)
            yield replace(line, speaker=speaker), played


def _training_lines(speakers: Sequence[Speaker], texts: Texts, rng: random.Random) -> Iterator[_Line]:
    known = [speaker for speaker in speakers if not speaker.held_out]
    while True:
        # A round of the whole cast in random order; heavier speakers come round more often.
        turn = [speaker for speaker in known for _ in range(_times(speaker.weight, rng))]
        rng.shuffle(turn)
        for speaker in turn:
            yield _Line(speaker, texts.draw(rng), "train")


def _times(weight: float, rng: random.Random) -> int:
    return int(weight) + (rng.random() < weight % 1)


def _held_out_lines(speakers: Sequence[Speaker], texts: Texts, rng: random.Random) -> Iterator[_Line]:
    known = [speaker for speaker in speakers if not speaker.held_out]
    unknown = [speaker for speaker in speakers if speaker.held_out]
    best = _BEST_TEACHER if any(speaker.teacher == _BEST_TEACHER for speaker in known) else "flite"
    natural = [speaker for speaker in known if speaker.teacher == best and speaker.shift is None]
    others = [speaker for speaker in known if speaker not in natural]
    rng.shuffle(others)
    parts: tuple[tuple[Sequence[Speaker], Split], ...] = (
        (natural or others, "heldout_text"),
        (others or natural, "heldout_text"),
        (unknown, "heldout_speaker"),
    )
    for number, text in enumerate(texts.held_out):
        for of_part, split in parts:
            if of_part:  # a cast of one's own may have no speaker to hold out
                yield _Line(of_part[number % len(of_part)], text, split)
    for speaker in unknown:
        for _ in range(HELD_OUT_OTHER_TEXTS):
            yield _Line(speaker, texts.draw(rng), "heldout_speaker")


def _entry(key: str, line: _Line, take: Take, offset: int) -> str:
    entry = {
        "key": key,
        "text": line.text,
        "speaker": line.speaker.name,
        "teacher": line.speaker.teacher,
        "split": line.split,
        "offset": offset,
        "samples": len(take.samples),
        "phones": [[phone.symbol, round(phone.start, 4), round(phone.end, 4)] for phone in take.phones],
        "characters": [round(float(time), 4) for time in take.characters],
    }
    return json.dumps(entry) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Build a corpus from the command line, with a progress bar in hours of speech."""
    parser = argparse.ArgumentParser(prog="python -m train.tiny.corpus", description="Synthesise the training speech.")
    parser.add_argument("folder", type=Path, help="where the shards go; an unfinished build there is continued")
    parser.add_argument("--hours", type=float, default=6.0, help="hours of training speech (default 6)")
    parser.add_argument("--seed", type=int, default=1, help="decides texts and order (default 1)")
    parser.add_argument("--cast", choices=CASTS, default="flite", help="who speaks (default flite)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")
    options = parser.parse_args(arguments)
    with tqdm(unit="shard", desc="speech") as bar:

        def show(finished: int, shards: int) -> None:
            bar.total, bar.n = shards, finished
            bar.refresh()

        try:
            corpus = build(
                options.folder,
                hours=options.hours,
                seed=options.seed,
                workers=options.workers,
                progress=show,
                cast_name=options.cast,
            )
        except (TeacherMissing, ValueError) as error:
            sys.exit(str(error))
    total = sum(corpus.seconds(index) for index in range(len(corpus))) / 3_600
    print(f"{len(corpus)} recordings, {total:.2f} hours, {len(corpus.speakers)} speakers in {options.folder}")


if __name__ == "__main__":
    main()
