"""Records the reference clips of ``audio_prompts``: eight speakers of the natural cast, each saying the same sentences.

python -m train.tiny.prompts audio_prompts

It needs what ``make natural-teachers`` installs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import soundfile
import soxr

from echo.types import SAMPLE_RATE
from train.tiny.teacher.kokoro import Style
from train.tiny.teacher.speakers import Speaker, cast
from train.tiny.teacher.studio import RATE, Studio

#: File names and who is heard: women and men, American and British, of every pitch that the cast has.
VOICES: Mapping[str, str] = {
    "tiny_anna": "kokoro-f03",
    "tiny_beth": "kokoro-f33",
    "tiny_clara": "kokoro-f37",
    "tiny_dan": "kokoro-m04",
    "tiny_eric": "kokoro-m32",
    "tiny_frank": "kokoro-m09",
    "tiny_grace": "kokoro-f09",
    "tiny_henry": "kokoro-m07",
}
TEXT = "The weather was cold, and the water was warm. Please leave a message after the tone."
_FEMALE = "kokoro-f"


def record(folder: Path, studio: Studio | None = None) -> dict[str, Any]:
    """Write ``NAME.flac`` for each of ``VOICES`` and ``voices.json`` about them, which is returned as well.

    Raises:
        TeacherMissing: Kokoro is not installed.
    """
    studio = studio or Studio()
    speakers = {speaker.name: speaker for speaker in cast("natural")}
    about: dict[str, Any] = {}
    for name, chosen in VOICES.items():
        speaker = speakers[chosen]
        take = studio.record(speaker, TEXT)
        samples = soxr.resample(take.samples, RATE, SAMPLE_RATE)
        soundfile.write(folder / f"{name}.flac", samples, SAMPLE_RATE, subtype="PCM_16")
        about[name] = {**described(speaker), "seconds": round(len(take.samples) / RATE, 2), "text": TEXT}
    (folder / "voices.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return about


def described(speaker: Speaker) -> dict[str, Any]:
    """What ``voices.json`` says of a speaker: who it is, and what of Kokoro's voice packs it is made of."""
    style = speaker.voice
    assert isinstance(style, Style)
    return {
        "gender": "female" if speaker.name.startswith(_FEMALE) else "male",
        "accent": "British" if style.british else "American",
        "speaker": speaker.name,
        "timbre": dict(style.timbre),
        "prosody": dict(style.prosody),
        "pitch": style.pitch,
        "speed": style.speed,
    }


def main() -> None:
    """Record from the command line."""
    options = argparse.ArgumentParser(
        prog="python -m train.tiny.prompts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("folder", type=Path)
    record(options.parse_args().folder)


if __name__ == "__main__":
    main()
