"""An engine in a child process as the server sees it: what it says of itself, speech, voices, credit, cancelling."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator

import pytest

from echo.engines.remote.engine import RemoteEngine
from echo.engines.remote.health import RemoteRules
from echo.errors import BadRequest, EngineFailed, NotReady, OutOfMemory, TooLarge
from echo.types import Emotion, EngineOption
from tests.unit.engines.remote.processes import RATE, WORD, clip, level, running, utterance, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def engine() -> Iterator[RemoteEngine]:
    with running() as engine:
        yield engine


def test_the_engine_says_what_it_is(engine: RemoteEngine) -> None:
    info = engine.info
    assert (info.name, info.sample_rate, info.license, info.concurrent) == ("fake-tts", RATE, "MIT", 1)
    assert (info.chunk_rules.max_chars, info.chunk_rules.max_bytes) == (300, 1200)
    assert engine.healthy()
    assert engine.available()


def test_speech_comes_frame_by_frame(engine: RemoteEngine) -> None:
    stream = engine.speak(utterance("[S1] one two three", chunk=4))
    frames = list(stream)
    assert [len(frame.samples) for frame in frames] == [WORD] * 3  # and the speaker tag is not spoken
    assert [(frame.chunk, frame.block, frame.sample_rate) for frame in frames] == [(4, n, RATE) for n in range(3)]
    assert stream.stats.blocks == 3
    assert 0 < stream.stats.first_frame_s <= stream.stats.total_s


def test_without_a_voice_that_it_needs_it_refuses(engine: RemoteEngine) -> None:
    with pytest.raises(BadRequest, match="voice: must be given"):
        list(engine.speak(utterance("needy")))
    assert level(engine, "needy", engine.encode_voice(clip()).result()) == 0.5


def test_chunks_of_a_request_have_seeds_of_their_own(engine: RemoteEngine) -> None:
    assert level(engine, "seed", seed=100) == pytest.approx(0.1)
    assert level(engine, "seed", seed=100, chunk=7) == pytest.approx(0.107)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("raise", EngineFailed),
        ("nan", EngineFailed),
        ("long", TooLarge),
        ("memory", OutOfMemory),
        ("allocator", OutOfMemory),
    ],
)
def test_a_failure_ends_one_job_and_tells_nothing_of_the_inside(
    engine: RemoteEngine, text: str, error: type[Exception]
) -> None:
    pid = engine.pid
    stream = engine.speak(utterance(f"one {text}"))
    assert len(next(stream).samples) == WORD
    with pytest.raises(error) as caught:
        next(stream)
    assert "secret" not in str(caught.value)
    assert level(engine, "seed", seed=5) == pytest.approx(0.005)
    assert engine.pid == pid


@pytest.mark.parametrize(("name", "param"), [("pitch", "pitch"), ("emo_vector", "emo_vector"), ("other", None)])
def test_a_value_that_the_engine_refuses_is_named(engine: RemoteEngine, name: str, param: str | None) -> None:
    with pytest.raises(BadRequest) as caught:
        list(engine.speak(utterance(f"wrong {name}")))
    assert caught.value.param == param
    assert "secret" not in str(caught.value)


def test_a_voice_is_sent_once_and_encoded_once() -> None:
    with running() as engine:
        anna, bob = (engine.encode_voice(clip(value)).result() for value in (0.25, 0.75))
        assert level(engine, "voice", anna) == pytest.approx(0.25)
        assert level(engine, "voice", bob) == pytest.approx(0.75)
        again = engine.encode_voice(clip(0.25)).result()  # the same clip, read anew
        assert level(engine, "voice", again) == pytest.approx(0.25)
        assert level(engine, "encodings", anna) == pytest.approx(0.02)


def test_a_voice_that_the_process_has_dropped_is_sent_again() -> None:
    with running() as engine:
        voices = [engine.encode_voice(clip(n / 100)).result() for n in range(1, 68)]
        for number, voice in enumerate(voices, 1):
            assert level(engine, "voice", voice) == pytest.approx(number / 100)
        assert level(engine, "voice", voices[0]) == pytest.approx(0.01)
        assert level(engine, "encodings") == pytest.approx(0.68)
        emotion = Emotion(alpha=0.5)  # and so is the clip of an emotion, both if need be
        spoken = level(engine, "emotion", voices[2], emotion=emotion, emotion_voice=voices[3])
        assert spoken == pytest.approx(0.04 / 2)


def test_a_clip_is_cut_to_what_the_engine_uses_and_refused_below(engine: RemoteEngine) -> None:
    voice = engine.encode_voice(clip(seconds=30)).result()
    assert voice.nbytes == 2 * 44_100 * 4
    with pytest.raises(BadRequest, match=r"the clip has 0\.1 s; this engine needs 0\.5 s") as caught:
        engine.encode_voice(clip(seconds=0.1)).result()
    assert caught.value.param == "voice"


def test_a_clip_that_the_engine_rejects_is_the_requests_fault(engine: RemoteEngine) -> None:
    voice = engine.encode_voice(clip(1.0)).result()
    for _ in range(2):
        with pytest.raises(BadRequest, match="cannot use the clip"):
            list(engine.speak(utterance("one", voice)))


def test_an_engine_without_cloning_takes_no_clip() -> None:
    with running(clone=False) as engine:
        with pytest.raises(BadRequest, match="voices of its own"):
            engine.encode_voice(clip()).result()
        assert level(engine, "one") == 0.5


def test_a_slow_reader_holds_the_engine_back_and_misses_nothing() -> None:
    with running(rules=RemoteRules(credit=0.5, ping=0.05)) as engine:
        stream = engine.speak(utterance("word " * 100))
        wait_until(lambda: stream.produced_samples >= RATE // 2)
        time.sleep(0.3)  # nothing more may come
        assert stream.produced_samples < RATE // 2 + WORD + 1
        assert sum(len(frame.samples) for frame in stream) == 100 * WORD


def test_a_reader_who_does_not_read_is_no_stalled_engine() -> None:
    with running(rules=RemoteRules(credit=0.2, ping=0.05, stall=3.0)) as engine:
        pid = engine.pid
        stream = engine.speak(utterance("word " * 20))
        wait_until(lambda: stream.produced_samples > 0)
        time.sleep(4.0)
        assert sum(len(frame.samples) for frame in stream) == 20 * WORD
        assert engine.pid == pid


def test_a_cancelled_job_ends_between_two_steps() -> None:
    with running(step_s=0.02) as engine:
        stream = engine.speak(utterance("word " * 3000))  # a minute
        next(stream)
        stream.cancel()
        wait_until(lambda: engine.workload().active == 0)
        assert level(engine, "one") == 0.5


def test_a_cancelled_job_that_waits_for_its_reader_ends() -> None:
    with running(rules=RemoteRules(credit=0.1)) as engine:
        stream = engine.speak(utterance("word " * 100))
        wait_until(lambda: stream.produced_samples > 0)
        stream.cancel()
        wait_until(lambda: engine.workload().active == 0)


def test_many_cancels() -> None:
    count = int(os.environ.get("CANCELS", "200"))
    chance = random.Random(7)
    with running(step_s=0.001) as engine:
        pid = engine.pid
        for start in range(0, count, 20):
            streams = [engine.speak(utterance("word " * 50)) for _ in range(min(20, count - start))]
            chance.shuffle(streams)
            for stream in streams:
                if chance.random() < 0.3:
                    next(stream)
                stream.cancel()
                assert list(stream) == []
        wait_until(lambda: engine.workload().active == engine.workload().waiting == 0)
        assert level(engine, "one") == 0.5
        assert engine.pid == pid


def test_as_many_jobs_at_a_time_as_the_engine_says() -> None:
    with running(concurrent=2, step_s=0.05) as engine:
        streams = [engine.speak(utterance("word " * 1000)) for _ in range(4)]
        wait_until(lambda: streams[0].produced_samples > 0 and streams[1].produced_samples > 0)
        workload = engine.workload()
        assert (workload.active, workload.waiting) == (2, 2)
        for stream in streams:
            stream.cancel()


def test_the_wait_is_estimated_from_the_measured_pace() -> None:
    with running(step_s=0.05) as engine:
        assert engine.queue_wait() == 0.0
        list(engine.speak(utterance("word " * 20)))  # a second or more for 2 s of audio
        jobs = [engine.speak(utterance("word " * 1000, estimate_s=100.0)) for _ in range(3)]
        assert engine.queue_wait() > 100
        assert engine.workload().queue_wait_s > 100
        for stream in jobs:
            stream.cancel()
        wait_until(lambda: engine.queue_wait() == 0.0)


def test_closing_fails_what_is_left_and_ends_the_process() -> None:
    with running(step_s=0.02, rules=RemoteRules(grace=0.2)) as engine:
        pid = engine.pid
        assert pid is not None
        streams = [engine.speak(utterance("word " * 1000)) for _ in range(2)]
        next(streams[0])
        engine.close()
        for stream in streams:
            with pytest.raises(NotReady):
                list(stream)
        with pytest.raises(NotReady):
            list(engine.speak(utterance("one")))
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_the_engine_says_what_it_can_do(engine: RemoteEngine) -> None:
    info = engine.info
    assert not info.blocks
    assert (info.clones, info.streams, info.languages, info.voices) == (True, "token", ("en",), ("low", "high"))
    assert info.emotions == {"emo_vector", "emo_alpha", "emo_audio_prompt"}
    assert info.options[0] == EngineOption(name="pitch", kind="number", least=0, most=2, default=1)
    assert [option.kind for option in info.options] == ["number", "integer", "boolean", "string"]


def test_options_reach_the_engine(engine: RemoteEngine) -> None:
    assert level(engine, "pitch") == pytest.approx(0.1)
    assert level(engine, "pitch", options={"pitch": 1.5}) == pytest.approx(0.15)


@pytest.mark.parametrize(("name", "expected"), [("low", 0.2), ("high", 0.3), ("low*0.6 + high*0.4", 0.4)])
def test_a_voice_of_the_engines_own_goes_by_its_name(engine: RemoteEngine, name: str, expected: float) -> None:
    assert level(engine, "name", engine.own_voice(name)) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["", "anna", "low+anna", "+", "low+"])
def test_any_other_name_is_not_the_engines_own(engine: RemoteEngine, name: str) -> None:
    assert engine.own_voice(name) is None


def test_an_emotion_reaches_the_engine_with_its_clip(engine: RemoteEngine) -> None:
    emotion = Emotion(vector=(0.8, *[0.0] * 7), alpha=0.5)
    angry = engine.encode_voice(clip(0.5)).result()
    assert level(engine, "emotion", emotion=emotion, emotion_voice=angry) == pytest.approx(0.8 * 0.5 * 0.5)
