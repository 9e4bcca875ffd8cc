"""Records the reference clips of ``audio_prompts``: six speakers of the cast, each saying the same two sentences.

python -m train.tiny.prompts audio_prompts
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import soundfile
import soxr

from echo.types import SAMPLE_RATE
from train.tiny.teacher.speakers import Speaker, cast
from train.tiny.teacher.studio import RATE, Studio

#: File names and who is heard: natural voices, and some made of them that the recogniser understands as well.
VOICES: Mapping[str, str] = {
    "tiny_anna": "flite-slt",
    "tiny_beth": "flite-slt-22",
    "tiny_clara": "flite-slt-13",
    "tiny_dan": "flite-rms",
    "tiny_eric": "flite-rms-08",
    "tiny_frank": "flite-rms-00",
}
TEXT = "The weather was cold, and the water was warm. Please leave a message after the tone."
_FEMALE = ("slt",)


def record(folder: Path) -> dict[str, Any]:
    """Write ``NAME.flac`` for each of ``VOICES`` and ``voices.json`` about them, which is returned as well."""
    studio = Studio()
    speakers = {speaker.name: speaker for speaker in cast()}
    about: dict[str, Any] = {}
    for name, chosen in VOICES.items():
        speaker = speakers[chosen]
        take = studio.record(speaker, TEXT)
        samples = soxr.resample(take.samples, RATE, SAMPLE_RATE)
        soundfile.write(folder / f"{name}.flac", samples, SAMPLE_RATE, subtype="PCM_16")
        about[name] = {**_described(speaker), "seconds": round(len(take.samples) / RATE, 2), "text": TEXT}
    (folder / "voices.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return about


def _described(speaker: Speaker) -> dict[str, Any]:
    shift = {} if speaker.shift is None else {"shift": asdict(speaker.shift)}
    gender = "female" if speaker.voice in _FEMALE else "male"
    return {"gender": gender, "speaker": speaker.name, "rate_wpm": round(speaker.words_per_minute), **shift}


def main() -> None:
    """Record from the command line."""
    options = argparse.ArgumentParser(
        prog="python -m train.tiny.prompts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("folder", type=Path)
    record(options.parse_args().folder)


if __name__ == "__main__":
    main()
