"""Chatterbox's environment, and tiny random checkpoints of both variants in it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from echo.engines.remote.config import CHILD
from echo.settings import engine_environment
from tests.engines.conftest import interpreter
from tests.engines.process import EngineProcess, running

RATE = 24_000
#: Samples of a token of speech.
TOKEN = 960
HERE = Path(__file__).parent
PRELOAD = HERE / "shrink.py"


@dataclass(frozen=True)
class Checkpoints:
    """Where the tiny checkpoints are, and what the package itself says of them."""

    python: Path
    folder: Path
    facts: dict[str, Any]

    def options(self, variant: str, **more: Any) -> dict[str, Any]:
        """The table ``options`` of the engine."""
        return {"variant": variant, "preload": str(PRELOAD), **more}


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    python, folder = interpreter("chatterbox"), tmp_path_factory.mktemp("checkpoints")
    run_foreign(python, HERE / "foreign.py", folder, CHILD.with_name("chatterbox.py"))
    return Checkpoints(python, folder, json.loads((folder / "facts.json").read_text()))


def run_foreign(python: Path, *command: Path) -> None:
    """Run a program in the engine's environment."""
    arguments = [python, "-I", *command]
    done = subprocess.run(arguments, env=engine_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-5000:]


@pytest.fixture(scope="session")
def english(checkpoints: Checkpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    """The English variant, with two voices: anna and bob; it decodes quickly where a test does not ask for more."""
    log = tmp_path_factory.mktemp("log") / "english.log"
    table = {"model": str(checkpoints.folder / "english"), "options": checkpoints.options("english", s3gen_steps=1)}
    with running(checkpoints.python, "chatterbox", log, **table) as engine:
        engine.voice("anna", clip(1), RATE)
        engine.voice("bob", clip(2), RATE)
        yield engine


@pytest.fixture(scope="module")
def turbo(checkpoints: Checkpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    """Turbo, whose checkpoint has a voice."""
    log = tmp_path_factory.mktemp("log") / "turbo.log"
    table = {"model": str(checkpoints.folder / "turbo"), "options": checkpoints.options("turbo")}
    with running(checkpoints.python, "chatterbox", log, **table) as engine:
        yield engine


def clip(number: int, seconds: float = 6.0, rate: int = RATE) -> np.ndarray:
    """A tone with some noise; which one says the number."""
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(number).normal(0, 0.05, len(time))
    return (0.3 * np.sin(2 * np.pi * 110 * number * time) + noise).astype(np.float32)
