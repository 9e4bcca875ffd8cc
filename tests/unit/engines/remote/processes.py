"""Engines in child processes that do what their texts say (fake_adapter.py)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from echo.engines.remote.config import EngineTable, RemoteConfig
from echo.engines.remote.engine import RemoteEngine
from echo.engines.remote.health import RemoteRules
from echo.settings import engine_environment
from echo.types import BlockPlan, BlockSpec, Utterance, VoiceState

ADAPTER = Path(__file__).with_name("fake_adapter.py")
RATE = 24_000
#: Samples per word of a text.
WORD = 2_400
#: Longer than anything here takes on a busy machine.
PATIENCE_S = 60.0


def config(name: str = "fake", adapter: Path = ADAPTER, **table: Any) -> RemoteConfig:
    return RemoteConfig(
        name=name,
        table=EngineTable(adapter=str(adapter), **table),
        command=(sys.executable,),
        adapter=adapter,
    )


@contextmanager
def running(*, rules: RemoteRules | None = None, **options: Any) -> Iterator[RemoteEngine]:
    """An engine whose restarts are quick; ``options`` are the fake's."""
    engine = RemoteEngine(
        config(options=options), rules=rules or RemoteRules(backoff=0.05), environment=engine_environment()
    )
    try:
        yield engine
    finally:
        engine.close()


def utterance(text: str, voice: VoiceState | None = None, **fields: Any) -> Utterance:
    plan = BlockPlan(blocks=(BlockSpec(size=100, steps=1),))
    return Utterance(text=text, plan=plan, voice=voice, **{"seed": 0, **fields})


def clip(level: float = 0.25, seconds: float = 1.0) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.full(round(seconds * 44_100), level, np.float32)


def level(engine: RemoteEngine, text: str, voice: VoiceState | None = None, **fields: Any) -> float:
    """Speak a text and return the level of its first word."""
    frames = list(engine.speak(utterance(text, voice, **fields)))
    return float(frames[0].samples[0])


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.01)
