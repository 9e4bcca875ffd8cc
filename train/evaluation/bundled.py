"""Whether the model speaks well with the clips of audio_prompts: each voice beside its teacher, on held-out texts.

    python -m train.evaluation.bundled --keep voices --page docs/voices

The teacher says the same texts with the same speaker. --keep NAME puts the result where docs/training.md finds it,
--page FOLDER spectrograms and, for each voice, a sound of the teacher and one of the model. It needs what
`make natural-teachers judge` installs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from tqdm import tqdm

from echo.errors import LoadError
from echo.settings import HOME
from echo.sources import TINY_MODEL
from echo.types import Audio
from train.evaluation.heard import Heard, of_teacher
from train.evaluation.heldout import Item, choose
from train.evaluation.judges.opinion import DistillMos
from train.evaluation.judges.packages import JudgeMissing
from train.evaluation.judges.speaker import Embedding, SpeakerEncoder
from train.evaluation.judges.speaker import similarity as cosine
from train.evaluation.judges.whisper import Whisper
from train.evaluation.page import draw_rows
from train.evaluation.parts import Figures, Opinion, Part, Pitch, Row, Words, judged
from train.evaluation.record import recorded
from train.evaluation.retold import retold
from train.evaluation.systems import Checkpoint, generate, open_voice
from train.evaluation.table import publish
from train.tiny.corpus import RATE, Corpus, Recording
from train.tiny.prompts import VOICES
from train.tiny.teacher.library import TeacherMissing
from train.tiny.teacher.speakers import cast
from train.tiny.teacher.studio import Studio

_CLIPS = HOME / "audio_prompts"
_TEACHER = "kokoro"
#: What every voice says on the page: the first example of the README.
SHOWN = "Hello! This voice was made on your own machine."
#: The README's first sentence, which the default voice says a few times.
OPENING = (
    "Text in, streamed speech out: an OpenAI-compatible server for Echo-TTS, a 2.8-billion-parameter diffusion "
    "transformer that speaks at 44.1 kHz with any voice it has heard a few seconds of."
)
_TIMES = 5


class Likeness:
    """Whether a speaker encoder finds what was said nearest to its own clip among all bundled ones."""

    name, generated_only = "speaker", False

    def __init__(self, encoder: Callable[[Audio], Embedding], clips: Sequence[Recording]) -> None:
        self._encoder = encoder
        self._clips = {clip.key: encoder(clip.samples) for clip in clips}

    def row(self, item: Item, heard: Heard) -> Row:
        """Cosine with the own clip, and whether none is nearer."""
        output = self._encoder(heard.at_corpus_rate)
        found = {key: cosine(output, clip) for key, clip in self._clips.items()}
        own = item.reference.key
        return {"likeness": round(found[own], 3), "first": max(found, key=found.__getitem__) == own}

    def figures(self, rows: Sequence[Row]) -> Figures:
        """Mean cosine, and share of what is nearest to its own clip."""
        return {
            "likeness": float(np.mean([row["likeness"] for row in rows])),
            "first": float(np.mean([row["first"] for row in rows])),
        }


def clip_of(folder: Path, name: str) -> Recording:
    """A bundled clip as a recording at the corpus's rate."""
    samples, rate = soundfile.read(folder / f"{name}.flac", dtype="float32")
    text = json.loads((folder / "voices.json").read_text(encoding="utf-8"))[name]["text"]
    return Recording(name, text, name, "", soxr.resample(samples, rate, RATE), (), np.zeros(0, np.float32))


def beside_teacher(items: Sequence[Item], generated: Sequence[Heard], parts: Sequence[Part]) -> dict[str, Any]:
    """Figures of one voice: what every part says of the teacher and of what was generated."""
    columns = {"teacher": [of_teacher(item.recording) for item in items], "generated": generated}
    found = {name: judged(items, heard, parts) for name, heard in columns.items()}
    return found | {"seconds": round(sum(len(heard.at_corpus_rate) for heard in generated) / RATE, 2)}


def evaluate(
    checkpoint: Checkpoint, texts: Sequence[str], *, threads: int, page: Path | None = None
) -> Mapping[str, Any]:
    """Figures of every bundled voice; ``page`` is a folder for spectrograms and sounds of ``SHOWN``."""
    speakers = {speaker.name: speaker for speaker in cast("natural")}
    studio = Studio()
    items = {
        name: retold(speakers[chosen], clip_of(_CLIPS, name), [SHOWN, *texts], studio)
        for name, chosen in tqdm(VOICES.items(), desc="the teacher speaks")
    }
    parts: list[Part] = [
        Opinion(DistillMos()),
        Words(Whisper("base"), "whisper"),
        Likeness(SpeakerEncoder(), [of_voice[0].reference for of_voice in items.values()]),
        Pitch(),
    ]
    default = next(iter(VOICES))
    opening = retold(speakers[VOICES[default]], clip_of(_CLIPS, default), [OPENING], studio) * _TIMES
    voices, shown = {}, {}
    with open_voice(checkpoint, threads=threads) as voice:
        for name, of_voice in tqdm(items.items(), desc="voices"):
            first, *generated = generate(voice, of_voice, lambda: None)
            shown[name] = {"teacher": of_teacher(of_voice[0].recording), "generated": first}
            voices[name] = {**_about(name), **beside_teacher(of_voice[1:], generated, parts)}
        said = beside_teacher(opening, generate(voice, opening, lambda: None), parts)
    if page is not None:
        show(page, shown)
    return {
        "checkpoint": {"name": checkpoint.name, "digest": checkpoint.digest()},
        "texts": texts,
        "voices": voices,
        "opening": {"text": OPENING, "voice": default, "times": _TIMES, **said},
    }


def show(folder: Path, sounds: Mapping[str, Mapping[str, Heard]]) -> None:
    """Write ``spectrograms.png``, and ``VOICE-teacher.flac`` and ``VOICE-generated.flac`` at 22.05 kHz."""
    folder.mkdir(parents=True, exist_ok=True)
    draw_rows(folder / "spectrograms.png", sounds)
    for name, columns in sounds.items():
        for column, heard in columns.items():
            samples = np.clip(heard.at_corpus_rate, -1, 1)
            soundfile.write(folder / f"{name}-{column}.flac", samples, RATE, subtype="PCM_16")


def _about(name: str) -> dict[str, str]:
    about = json.loads((_CLIPS / "voices.json").read_text(encoding="utf-8"))[name]
    return {key: about[key] for key in ("gender", "accent")}


def main() -> None:
    """Evaluate from the command line."""
    options = argparse.ArgumentParser(
        prog="python -m train.evaluation.bundled",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("checkpoint", nargs="?", default=TINY_MODEL, help="a model folder; default: the shipped one")
    options.add_argument("--work", type=Path, default=Path("runs/train-tiny"), help="the run whose texts are said")
    options.add_argument("--texts", type=int, default=10)
    options.add_argument("--keep", metavar="NAME", help="keep the result as train/tiny/results/NAME.json")
    options.add_argument("--page", type=Path, metavar="FOLDER", help="where spectrograms and sounds go")
    given = options.parse_args()
    torch.set_num_threads(1)
    try:
        chosen = choose(Corpus.open(given.work / "corpus"), given.texts, teacher=_TEACHER)
        texts = [item.recording.text for item in chosen]
        results = evaluate(Checkpoint.named(given.checkpoint), texts, threads=1, page=given.page)
    except (ValueError, FileNotFoundError, LoadError, TeacherMissing, JudgeMissing) as error:
        sys.exit(str(error))
    record = recorded("voices", "train.evaluation.bundled", sys.argv[1:], "cpu", results)
    publish(record, given.keep)


if __name__ == "__main__":
    main()
