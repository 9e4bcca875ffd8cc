"""Whether the model speaks well with the clips of audio_prompts: each voice beside its teacher, on held-out texts.

    python -m train.evaluation.bundled --keep voices

The teacher says the same texts with the same speaker. --keep NAME puts the result where docs/training.md finds it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from tqdm import tqdm

from bench.record import write_record
from echo.errors import LoadError
from echo.settings import HOME
from echo.sources import TINY_MODEL
from train.evaluation.heard import of_teacher
from train.evaluation.heldout import Item, choose
from train.evaluation.parts import Pitch, Words
from train.evaluation.recogniser import Recogniser
from train.evaluation.record import recorded
from train.evaluation.systems import Checkpoint, Voice, generate, open_voice
from train.evaluation.table import RESULTS, described
from train.tiny.corpus import RATE, Corpus, Recording
from train.tiny.prompts import VOICES
from train.tiny.teacher.library import TeacherMissing
from train.tiny.teacher.speakers import Speaker, cast
from train.tiny.teacher.studio import Studio

_CLIPS = HOME / "audio_prompts"


def clip_of(folder: Path, name: str) -> Recording:
    """A bundled clip as a recording at the corpus's rate."""
    samples, rate = soundfile.read(folder / f"{name}.flac", dtype="float32")
    text = json.loads((folder / "voices.json").read_text(encoding="utf-8"))[name]["text"]
    return Recording(name, text, name, "", soxr.resample(samples, rate, RATE), (), np.zeros(0, np.float32))


def items_of(speaker: Speaker, clip: Recording, texts: Sequence[str], studio: Studio) -> list[Item]:
    """The texts as the teacher says them with this speaker, to be said in the voice of the clip."""
    made = []
    for text in texts:
        take = studio.record(speaker, text)
        said = Recording(
            f"{clip.key}: {text}", text, speaker.name, speaker.teacher, take.samples, take.phones, take.characters
        )
        made.append(Item(said, clip, "seen"))
    return made


def judged(voice: Voice, items: Sequence[Item], words: Words, pitch: Pitch) -> dict[str, Any]:
    """Figures of one voice: WER of the teacher and when generated, error of the pitch."""
    generated = generate(voice, items, lambda: None)
    taught = [words.row(item, of_teacher(item.recording)) for item in items]
    said = [words.row(item, heard) for item, heard in zip(items, generated, strict=True)]
    pitches = [pitch.row(item, heard) for item, heard in zip(items, generated, strict=True)]
    return {
        "teacher": words.figures(taught),
        "generated": words.figures(said),
        "pitch_hz": pitches[0]["reference_hz"],
        "pitch_error_percent": pitch.figures(pitches)["error_percent"],
        "seconds": round(sum(len(heard.at_corpus_rate) for heard in generated) / RATE, 2),
    }


def evaluate(checkpoint: Checkpoint, texts: Sequence[str], *, threads: int) -> Mapping[str, Any]:
    """Figures of every bundled voice."""
    speakers = {speaker.name: speaker for speaker in cast()}
    studio, words, pitch = Studio(), Words(Recogniser()), Pitch()
    voices = {}
    with open_voice(checkpoint, threads=threads) as voice:
        for name, speaker in tqdm(VOICES.items(), desc="voices"):
            items = items_of(speakers[speaker], clip_of(_CLIPS, name), texts, studio)
            voices[name] = judged(voice, items, words, pitch)
    return {"checkpoint": {"name": checkpoint.name, "digest": checkpoint.digest()}, "texts": texts, "voices": voices}


def main() -> None:
    """Evaluate from the command line."""
    options = argparse.ArgumentParser(
        prog="python -m train.evaluation.bundled",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("checkpoint", nargs="?", default=TINY_MODEL, help="a model folder; default: the shipped one")
    options.add_argument("--work", type=Path, default=Path("runs/train-tiny"), help="folder of the run with the texts")
    options.add_argument("--texts", type=int, default=10)
    options.add_argument("--keep", metavar="NAME", help="keep the result as train/tiny/results/NAME.json")
    given = options.parse_args()
    torch.set_num_threads(1)
    try:
        texts = [item.recording.text for item in choose(Corpus.open(given.work / "corpus"), given.texts)]
        results = evaluate(Checkpoint.named(given.checkpoint), texts, threads=1)
    except (ValueError, FileNotFoundError, LoadError, TeacherMissing) as error:
        sys.exit(str(error))
    record = recorded("voices", "train.evaluation.bundled", sys.argv[1:], "cpu", results)
    if given.keep:
        write_record(RESULTS / f"{given.keep}.json", record)
    tqdm.write(described(record, f"{given.keep or 'not kept'}.json"), file=sys.stdout)


if __name__ == "__main__":
    main()
