"""Running a service of the page in a pipeline of its own, and what came out of it."""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from tests.contract.docs.pages import Page, aimed
from tests.contract.serving import PATIENCE_S, Gate, Served

with warnings.catch_warnings():
    # pipecat's own affairs: Python 3.13 has no audioop any more, and a class of its own that it is about to remove.
    warnings.filterwarnings("ignore", "'audioop' is deprecated", DeprecationWarning)
    warnings.filterwarnings("ignore", "`AudioContextTTSService` is deprecated", DeprecationWarning)
    from loguru import logger
    from pipecat.frames.frames import (
        AggregatedTextFrame,
        ErrorFrame,
        Frame,
        InterruptionFrame,
        LLMFullResponseEndFrame,
        LLMFullResponseStartFrame,
        LLMTextFrame,
        TTSAudioRawFrame,
        TTSSpeakFrame,
        TTSStoppedFrame,
        TTSTextFrame,
        TTSUpdateSettingsFrame,
    )
    from pipecat.pipeline.worker import PipelineParams
    from pipecat.services.elevenlabs.dialogue.tts import ElevenLabsDialogueTTSService
    from pipecat.services.elevenlabs.tts import ElevenLabsTTSService
    from pipecat.services.openai.tts import OpenAITTSService
    from pipecat.services.tts_service import TextAggregationMode
    from pipecat.tests.utils import SleepFrame, run_test

#: What the tests need of pipecat: here its warnings have been dealt with.
__all__ = [
    "AggregatedTextFrame",
    "ElevenLabsDialogueTTSService",
    "ElevenLabsTTSService",
    "ErrorFrame",
    "Frame",
    "InterruptionFrame",
    "LLMFullResponseEndFrame",
    "LLMFullResponseStartFrame",
    "LLMTextFrame",
    "SleepFrame",
    "TTSAudioRawFrame",
    "TTSSpeakFrame",
    "TTSStoppedFrame",
    "TTSTextFrame",
    "TTSUpdateSettingsFrame",
    "TextAggregationMode",
    "logger",
    "run_test",
]

PAGE = Page("pipecat")


@dataclass(frozen=True, slots=True)
class Heard:
    """What came out of a pipeline."""

    down: Sequence[Frame]
    up: Sequence[Frame]

    @property
    def audio(self) -> list[TTSAudioRawFrame]:
        return [frame for frame in self.down if isinstance(frame, TTSAudioRawFrame)]

    @property
    def seconds(self) -> float:
        return sum(len(frame.audio) / 2 / frame.sample_rate for frame in self.audio)

    @property
    def words(self) -> list[TTSTextFrame]:
        return [frame for frame in self.down if isinstance(frame, TTSTextFrame)]

    @property
    def errors(self) -> list[str]:
        return [frame.error for frame in [*self.up, *self.down] if isinstance(frame, ErrorFrame)]


async def hear(
    heading: str,
    server: Served,
    *frames: Frame,
    later: Iterable[Frame] = (),
    rate: int | None = None,
    error: str | None = None,
    **settings: Any,
) -> Heard:
    """Run a pipeline around the service of a section of the page; ``settings`` change the service's own."""
    names: dict[str, Any] = {}
    exec(aimed(PAGE.block(heading, "python"), server), names)
    tts = names["tts"]
    before = [TTSUpdateSettingsFrame(delta=type(tts).Settings(**settings))] if settings else []
    try:
        return await listen(tts, itertools.chain(before, frames, later), rate=rate, error=error)
    finally:
        if "session" in names:
            await names["session"].close()


async def listen(tts: Any, frames: Iterable[Frame], *, rate: int | None = None, error: str | None = None) -> Heard:
    """Run a pipeline around a service.

    ``frames`` is drawn from while it runs. Where an ``error`` is to come, of which this is a part, it is waited for
    instead of audio.
    """
    tts._stop_frame_timeout_s = PATIENCE_S if error is None else 0.1
    if error is not None:
        told: list[str] = []
        tts.add_event_handler("on_error", lambda _, frame: told.append(frame.error))
        frames = itertools.chain(frames, until_told(told, error))
    params = PipelineParams(audio_out_sample_rate=rate) if rate else PipelineParams()
    try:
        down, up = await run_test(
            tts,
            frames_to_send=cast(Sequence[Frame], frames),
            pipeline_params=params,
            start_timeout=PATIENCE_S,
        )
    finally:
        if isinstance(tts, OpenAITTSService):
            await tts._client.close()  # pipecat leaves that to the end of the process
    return Heard(down, up)


def until_told(told: list[str], error: str) -> Iterator[Frame]:
    """Pauses until an error has been told, or for as long as a failing test waits."""
    deadline = time.monotonic() + PATIENCE_S
    while not any(error in each for each in told) and time.monotonic() < deadline:
        yield SleepFrame(0.01)


def answer(*tokens: str) -> list[Frame]:
    """The frames of a language model's answer."""
    return [LLMFullResponseStartFrame(), *(LLMTextFrame(token) for token in tokens), LLMFullResponseEndFrame()]


def interrupted(server: Served, gate: Gate, frames: Iterable[Frame], passages: int = 2) -> Iterator[Frame]:
    """An answer that is interrupted when the engine waits at ``gate``, and another after it.

    The gate is opened when the engine has been given that many passages, those of the second answer included.
    """
    yield from frames
    while not gate.reached.is_set():
        yield SleepFrame(0.01)
    yield InterruptionFrame()
    yield from answer("I am listening.")
    while len(server.script.spoken) < passages and not gate.expired:
        yield SleepFrame(0.01)
    gate.open()


def spoken(server: Served) -> list[str]:
    """The texts that the engine was given, without their tags."""
    return [utterance.text.removeprefix("[S1] ") for utterance in server.script.spoken]
