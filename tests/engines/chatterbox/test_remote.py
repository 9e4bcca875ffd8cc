"""Chatterbox behind the server's engine interface, and its watermark."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from echo.engines.remote.config import CHILD, EngineTable, RemoteConfig
from echo.engines.remote.engine import RemoteEngine
from echo.errors import BadRequest, EngineFailed
from echo.settings import engine_environment
from tests.engines.chatterbox.conftest import HERE, RATE, TOKEN, Checkpoints, clip
from tests.engines.process import EngineProcess
from tests.unit.engines.remote.processes import utterance

TEXT = "Nothing is heard so well as this."


@pytest.fixture(scope="module")
def engine(checkpoints: Checkpoints) -> Iterator[RemoteEngine]:
    """Without a watermark, with options in its table."""
    table = EngineTable(
        adapter="chatterbox",
        model=str(checkpoints.folder / "english"),
        options=checkpoints.options("english", watermark=False, first_chunk_size=8, chunk_size=12),
    )
    adapter = CHILD.with_name("chatterbox.py")
    config = RemoteConfig(name="chatterbox", table=table, command=(str(checkpoints.python),), adapter=adapter)
    engine = RemoteEngine(config, environment=engine_environment())
    try:
        yield engine
    finally:
        engine.close()


def test_the_server_hears_it_chunk_by_chunk(engine: RemoteEngine) -> None:
    assert (engine.info.name, engine.info.sample_rate, engine.info.license) == ("chatterbox", RATE, "MIT")
    assert engine.info.chunk_rules.max_chars == 300
    voice = engine.encode_voice(clip(1, 6, 44_100)).result()
    frames = list(engine.speak(utterance(TEXT, voice, seed=4)))
    assert [len(frame.samples) for frame in frames] == [4 * TOKEN, 12 * TOKEN, 12 * TOKEN, 12 * TOKEN]
    again = list(engine.speak(utterance(TEXT, voice, seed=4)))
    assert all((one.samples == other.samples).all() for one, other in zip(frames, again, strict=True))


def test_a_listener_who_leaves_ends_it(engine: RemoteEngine) -> None:
    voice = engine.encode_voice(clip(1, 6, 44_100)).result()
    stream = engine.speak(utterance(TEXT, voice))
    next(stream)
    stream.cancel()
    assert len(list(engine.speak(utterance(TEXT, voice)))) == 4


def test_what_it_cannot_speak_is_an_error(engine: RemoteEngine) -> None:
    with pytest.raises(BadRequest, match=r"0\.5 s; this engine needs 1 s"):
        engine.encode_voice(clip(1, 0.5, 44_100)).result()
    with pytest.raises(BadRequest):
        list(engine.speak(utterance(TEXT)))  # without a clip
    voice = engine.encode_voice(clip(1, 6, 44_100)).result()
    with pytest.raises(EngineFailed):
        list(engine.speak(utterance(" ", voice)))


def test_the_watermark_is_there_unless_it_is_switched_off(
    english: EngineProcess, engine: RemoteEngine, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    english.voice("same", clip(1, 6, 44_100), 44_100)
    marked = english.speak(TEXT, "same", seed=4, first_chunk_size=8, chunk_size=12)
    voice = engine.encode_voice(clip(1, 6, 44_100)).result()
    plain = np.concatenate([frame.samples for frame in engine.speak(utterance(TEXT, voice, seed=4))])
    assert marked.sizes == [4 * TOKEN, 12 * TOKEN, 12 * TOKEN, 12 * TOKEN]
    np.save(tmp_path / "marked.npy", marked.samples)
    np.save(tmp_path / "plain.npy", plain)
    command = [checkpoints.python, "-I", HERE / "watermark.py", tmp_path / "marked.npy", tmp_path / "plain.npy"]
    done = subprocess.run(command, env=engine_environment(), capture_output=True, text=True, check=True)
    found = [float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("confidence")]
    assert found[0] > 0.9
    assert found[1] < 0.5
