"""IndexTTS-2's environment, and a tiny random checkpoint in it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from echo.settings import engine_environment
from tests.engines.conftest import interpreter
from tests.engines.process import EngineProcess, running

RATE = 22_050
#: Two segments, where a segment has at most 40 tokens.
TEXT = "Nothing is heard so well as this. It comes in a second segment."
#: Samples of a segment: 60 tokens, each of 1.72 frames of 256 samples.
SEGMENT = 103 * 256
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Checkpoint:
    """Where the tiny checkpoint is, and what the package itself says with it of ``TEXT``."""

    python: Path
    folder: Path
    facts: dict[str, Any]

    @property
    def model(self) -> str:
        """The folder of the weights."""
        return str(self.folder / "model")

    def options(self, **more: Any) -> dict[str, Any]:
        """The table ``options`` of the engine."""
        return {"preload": str(HERE / "shrink.py"), "max_text_tokens_per_segment": 40, **more}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkpoint]:
    """With it, the environment of engines names a cache of the hub that has all of their files."""
    python, folder = interpreter("indextts"), tmp_path_factory.mktemp("checkpoint")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_CACHE", str(folder / "hub"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        command = [python, "-I", HERE / "foreign.py", folder, TEXT]
        done = subprocess.run(command, env=engine_environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-5000:]
        yield Checkpoint(python, folder, json.loads((folder / "facts.json").read_text()))


@pytest.fixture(scope="session")
def indextts(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    """The engine, with two voices, anna and bob, and a third clip, sad."""
    log = tmp_path_factory.mktemp("log") / "indextts.log"
    with running(checkpoint.python, "indextts", log, model=checkpoint.model, options=checkpoint.options()) as engine:
        for number, key in enumerate(("anna", "bob", "sad"), 1):
            engine.voice(key, clip(number), RATE)
        yield engine


def clip(number: int, seconds: float = 3.0, rate: int = RATE) -> np.ndarray:
    """A tone with some noise; which one says the number."""
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(number).normal(0, 0.05, len(time))
    return (0.3 * np.sin(2 * np.pi * 110 * number * time) + noise).astype(np.float32)
