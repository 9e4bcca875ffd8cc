"""IndexTTS-2 behind the engine interface of the server."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from echo.engines.remote.config import CHILD, EngineTable, RemoteConfig
from echo.engines.remote.engine import RemoteEngine
from echo.errors import BadRequest, EngineFailed
from echo.settings import engine_environment
from echo.types import Audio, Emotion, Utterance, VoiceState
from tests.engines.indextts.conftest import RATE, SEGMENT, TEXT, Checkpoint, clip
from tests.unit.engines.remote.processes import utterance


@pytest.fixture(scope="module")
def engine(checkpoint: Checkpoint) -> Iterator[RemoteEngine]:
    table = EngineTable(adapter="indextts", model=checkpoint.model, options=checkpoint.options(num_beams=1))
    adapter = CHILD.with_name("indextts.py")
    config = RemoteConfig(name="indextts", table=table, command=(str(checkpoint.python),), adapter=adapter)
    engine = RemoteEngine(config, environment=engine_environment())
    try:
        yield engine
    finally:
        engine.close()


@pytest.fixture(scope="module")
def anna(engine: RemoteEngine) -> VoiceState:
    return engine.encode_voice(clip(1, rate=44_100)).result()


def spoken(engine: RemoteEngine, what: Utterance) -> Audio:
    return np.concatenate([frame.samples for frame in engine.speak(what)])


def test_the_server_hears_it_segment_by_segment(engine: RemoteEngine, anna: VoiceState) -> None:
    info = engine.info
    assert (info.name, info.sample_rate, info.license) == ("indextts-2", RATE, "bilibili Model Use License Agreement")
    assert (info.streams, info.chunk_rules.max_chars) == ("segment", 300)
    frames = list(engine.speak(utterance(TEXT, anna, seed=4)))
    assert [(len(frame.samples), frame.is_last) for frame in frames] == [(SEGMENT, False), (SEGMENT, True)]
    again = spoken(engine, utterance(TEXT, anna, seed=4))
    np.testing.assert_array_equal(again, np.concatenate([frame.samples for frame in frames]))


def test_emotions_and_options_arrive(engine: RemoteEngine, anna: VoiceState) -> None:
    sad = engine.encode_voice(clip(3, rate=44_100)).result()
    asked = [
        utterance(TEXT, anna),
        utterance(TEXT, anna, emotion=Emotion(), emotion_voice=sad),
        utterance(TEXT, anna, emotion=Emotion(alpha=0.3), emotion_voice=sad),
        utterance(TEXT, anna, emotion=Emotion(vector=(0, 0, 0.5, 0, 0, 0, 0, 0))),
        utterance(TEXT, anna, emotion=Emotion(from_text=True, text="Hooray!")),
        utterance(TEXT, anna, options={"temperature": 0.2}),
    ]
    heard = [spoken(engine, each) for each in asked]
    for number, one in enumerate(heard):
        assert len(one) == 2 * SEGMENT
        assert not any((one == other).all() for other in heard[number + 1 :])


def test_a_listener_who_leaves_ends_it(engine: RemoteEngine, anna: VoiceState) -> None:
    stream = engine.speak(utterance(TEXT, anna))
    next(stream)
    stream.cancel()
    assert len(spoken(engine, utterance(TEXT, anna))) == 2 * SEGMENT


def test_what_it_cannot_speak_is_an_error(engine: RemoteEngine, anna: VoiceState) -> None:
    with pytest.raises(BadRequest, match=r"0\.5 s; this engine needs 1 s"):
        engine.encode_voice(clip(1, 0.5, 44_100)).result()
    with pytest.raises(BadRequest, match="voice: must be given"):
        list(engine.speak(utterance(TEXT)))
    with pytest.raises(EngineFailed):
        list(engine.speak(utterance(" ", anna)))
    assert len(spoken(engine, utterance(TEXT, anna))) == 2 * SEGMENT
