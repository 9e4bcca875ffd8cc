"""A reference clip of a given length, so that figures of different machines come from the same one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from bench import ROOT
from echo.audio.pcm import to_bytes
from echo.audio.wav import FormatTag, header
from echo.settings import Settings
from echo.types import SAMPLE_RATE, Audio
from echo.voices.reference import load_voice
from echo.voices.voice import ClipVoice

_BUNDLED = ROOT / "audio_prompts"


@contextmanager
def speaking_with(settings: Settings, seconds: float | None) -> Iterator[Settings]:
    """The settings with a reference of so many seconds as the default voice; None leaves them as they are."""
    if seconds is None:
        yield settings
        return
    with tempfile.TemporaryDirectory(prefix="echo-bench-") as folder:
        name = f"bench_{seconds:g}s"
        (Path(folder) / f"{name}.wav").write_bytes(clip(seconds))
        yield settings.model_copy(update={"voices_dir": (folder,), "default_voice": name})


def clip(seconds: float) -> bytes:
    """A wav file of the bundled voices one after the other, over and over, cut at ``seconds``."""
    data = to_bytes(reference(seconds))
    return header(FormatTag.PCM, SAMPLE_RATE, len(data)) + data


def reference(seconds: float) -> Audio:
    """The same as samples at the engine's rate."""
    voices = [ClipVoice(audio=path.read_bytes()) for path in sorted(_BUNDLED.glob("*.flac"))]
    speech = np.concatenate([load_voice(voice).audio for voice in voices])
    return np.resize(speech, round(seconds * SAMPLE_RATE))
