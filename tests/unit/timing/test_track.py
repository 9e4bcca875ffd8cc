"""Times of words against the sound that is heard: in blocks, over joins and pauses, at any speed."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager

import numpy as np
import pytest
from typing_extensions import override

from echo.audio.encode import open_output
from echo.audio.join import Joiner
from echo.engines.base import Engine
from echo.engines.fake import FakeEngine
from echo.limits import RequestLimits
from echo.pipeline import Pipeline
from echo.stream import FrameStream
from echo.text.times import Timed, TimesMethod
from echo.text.tokenize import encode
from echo.timing.spelling import find_words
from echo.timing.track import SpeechTimes
from echo.timing.words import WordTimes
from echo.types import (
    SAMPLE_RATE,
    Audio,
    AudioFormat,
    BlockPlan,
    BlockSpec,
    Encoding,
    EngineInfo,
    Segment,
    Utterance,
    VoiceState,
)
from tests.unit.timing.told import say

#: Latents of the blocks: words lie across their borders.
BLOCKS = (8, 16, 16, 64)
PLAN = BlockPlan(blocks=(BlockSpec(size=104, steps=1),))
#: Errors that are allowed: a window of the loudness where there is a pause, and half a latent where there is none.
EDGE_S, INSIDE_S = 0.02, 0.03


class Telling(Engine):
    """Says its texts as tones, with or without the attention to them."""

    def __init__(self, *, told: bool = True) -> None:
        self._told = told
        self._fake = FakeEngine()

    @property
    @override
    def info(self) -> EngineInfo:
        return self._fake.info

    @override
    def encode_voice(self, audio: Audio) -> Future[VoiceState]:
        raise NotImplementedError

    @override
    def speak(self, utterance: Utterance) -> FrameStream:
        stream = FrameStream()
        for frame in say(utterance.text).frames(utterance.chunk, BLOCKS, told=self._told):
            stream.put(frame)
        stream.finish()
        return stream

    @override
    def close(self) -> None:
        self._fake.close()


@asynccontextmanager
async def speaking(
    source: str, segments: Sequence[Segment], *, speed: float = 1.0, told: bool = True
) -> AsyncIterator[Pipeline]:
    engine = Telling(told=told)
    with ThreadPoolExecutor(1) as workers:
        pipeline = Pipeline(
            segments,
            engine=engine,
            output=open_output(AudioFormat(encoding=Encoding.F32), SAMPLE_RATE, speed),
            joiner=Joiner(SAMPLE_RATE),
            workers=workers,
            limits=RequestLimits(),
            speed=speed,
            started=time.monotonic(),
            times=SpeechTimes(source, [each.utterance.text for each in segments], SAMPLE_RATE, speed),
        )
        try:
            yield pipeline
        finally:
            pipeline.close()
            engine.close()


def segment(text: str, chunk: int, *, before: int = 0, after: int = 0) -> Segment:
    utterance = Utterance(text=f"[S1] {text}", plan=PLAN, seed=1, chunk=chunk, times=True)
    return Segment(utterance=utterance, pause_before_ms=before, pause_after_ms=after)


async def heard(pipeline: Pipeline) -> Audio:
    async with asyncio.timeout(60):
        return np.frombuffer(b"".join([data async for data in pipeline.run()]), np.float32)


def runs(samples: Audio) -> list[tuple[float, float]]:
    """Seconds in which there is sound, with silences of at least 40 ms between."""
    loud = np.flatnonzero(np.abs(samples) > 0.01)
    cuts = np.flatnonzero(np.diff(loud) > 0.04 * SAMPLE_RATE)
    firsts, lasts = loud[np.append(0, cuts + 1)], loud[np.append(cuts, len(loud) - 1)]
    return [(first / SAMPLE_RATE, last / SAMPLE_RATE) for first, last in zip(firsts, lasts, strict=True)]


def check(words: Sequence[Timed], sounds: Sequence[tuple[float, float]], groups: Sequence[int], slack: float) -> None:
    """Compare groups of words without a pause between them with the sounds that are heard."""
    assert len(sounds) == len(groups)
    assert sum(groups) == len(words)
    start = 0
    for (begin, end), count in zip(sounds, groups, strict=True):
        group = words[start : start + count]
        assert group[0].start_s == pytest.approx(begin, abs=slack)
        assert group[-1].end_s == pytest.approx(end, abs=slack)
        chars = sum(len(word.text) for word in group)
        at = begin
        for word in group:
            assert word.start_s == pytest.approx(at, abs=slack + INSIDE_S)
            at += len(word.text) / chars * (end - begin)
        start += count


SOURCE = "Rain fell, and then it stopped. *looks up*  We can go OUT now. Yes."
CHUNKS = ("Rain fell, and then it stopped.", "We can go out now. Yes.")
GROUPS = (2, 4, 5, 1)


@pytest.mark.parametrize(("speed", "slack"), [(1.0, EDGE_S), (1.5, 0.06), (0.75, 0.06)])
async def test_times_are_those_of_the_sound_over_a_join_and_pauses(speed: float, slack: float) -> None:
    segments = [segment(CHUNKS[0], 0, before=250, after=900), segment(CHUNKS[1], 1)]
    async with speaking(SOURCE, segments, speed=speed) as pipeline:
        samples = await heard(pipeline)
        times = pipeline.times
    assert times is not None
    assert times.method is TimesMethod.ATTENTION
    assert [word.text for word in times.words] == [word for word in SOURCE.split() if word not in ("*looks", "up*")]
    check(times.words, runs(samples), GROUPS, slack)
    spoken = times.spoken()
    assert {(word.text, word.start_s) for word in times.words} <= {(word.text, word.start_s) for word in spoken.words()}
    characters = spoken.characters()
    assert "".join(char.text for char in characters) == SOURCE
    assert all(a.end_s == b.start_s for a, b in itertools.pairwise(characters))


async def test_a_join_without_a_pause_of_its_own() -> None:
    async with speaking(SOURCE, [segment(text, i) for i, text in enumerate(CHUNKS)]) as pipeline:
        samples = await heard(pipeline)
        assert pipeline.times is not None
        check(pipeline.times.words, runs(samples), GROUPS, EDGE_S)


async def test_a_short_word_beside_a_pause_keeps_its_length() -> None:
    source = "Well, a dog is here. I, we."
    async with speaking(source, [segment(source, 0)]) as pipeline:
        samples = await heard(pipeline)
        assert pipeline.times is not None
        check(pipeline.times.words, runs(samples), (1, 4, 1, 1), EDGE_S)


async def test_words_are_known_while_the_speech_goes_on_and_do_not_change() -> None:
    async with speaking(SOURCE, [segment(text, i) for i, text in enumerate(CHUNKS)]) as pipeline:
        assert pipeline.times is not None
        seen, lengths, pieces = [], [0], []
        async for data in pipeline.run():
            pieces.append(len(data) // 4 / SAMPLE_RATE)
            seen.append(list(pipeline.times.words))
            lengths.append(len(pipeline.times.words))
    assert all(later[: len(earlier)] == earlier for earlier, later in itertools.pairwise(seen))
    assert len(set(lengths)) > 3
    # The words of a block are known when it is: none that has ended is missing for longer than a block.
    final, at = seen[-1], 0.0
    for words, piece in zip(seen, pieces, strict=True):
        at += piece
        assert all(word in words for word in final if word.end_s < at - 1.0)


async def test_an_engine_that_tells_nothing_has_its_times_estimated_chunk_by_chunk() -> None:
    segments = [segment(text, i) for i, text in enumerate(CHUNKS)]
    async with speaking(SOURCE, segments, told=False) as pipeline:
        samples = await heard(pipeline)
        times = pipeline.times
    assert times is not None
    assert times.method is times.spoken().method is TimesMethod.ESTIMATE
    sounds = runs(samples)
    assert times.words[0].start_s == pytest.approx(sounds[0][0], abs=EDGE_S)
    assert times.words[5].end_s == pytest.approx(sounds[1][1], abs=EDGE_S)
    assert times.words[6].start_s == pytest.approx(sounds[2][0], abs=EDGE_S)
    assert times.words[-1].end_s == pytest.approx(sounds[-1][1], abs=EDGE_S)


async def test_a_mark_by_itself_lasts_from_word_to_word() -> None:
    source = "Well, — no & yes …"
    async with speaking(source, [segment("Well, no & yes.", 0)]) as pipeline:
        await heard(pipeline)
        assert pipeline.times is not None
        words = pipeline.times.words
    assert [word.text for word in words] == source.split()
    for before, mark, after in [words[:3], words[2:5]]:
        assert (mark.start_s, mark.end_s) == (before.end_s, after.start_s)
    assert words[1].end_s - words[1].start_s > 0.2
    assert words[-1].start_s == words[-1].end_s == words[-2].end_s


def test_a_word_that_the_model_does_not_come_to_is_within_the_speech() -> None:
    said = say("[S1] One two.")
    text = f"{said.text} Three."
    attention = np.pad(said.attention, [(0, 0), (0, len(encode(text)) - said.attention.shape[1])], constant_values=1e-6)
    times = WordTimes(find_words("One two. Three.", [text])[0], attention.shape[1], SAMPLE_RATE)
    words = [*times.push(attention, said.samples), *times.finish()]
    assert len(words) == 3
    assert words[-1].end_s == pytest.approx(said.words[-1][1], abs=EDGE_S)


async def test_nothing_to_speak_has_no_words() -> None:
    async with speaking("*sighs*", []) as pipeline:
        await heard(pipeline)
        assert pipeline.times is not None
        assert pipeline.times.words == []
        assert pipeline.times.spoken().words() == [Timed("*sighs*", 0.0, 0.0)]
