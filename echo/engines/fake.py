"""An engine without a model: a sine per chunk, with scripted delays and failures; for tests and benchmarks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from typing_extensions import override

from echo.engines.base import Engine
from echo.errors import EngineFailed, Overloaded, TooLarge
from echo.stream import FrameStream
from echo.types import (
    SAMPLE_RATE,
    SAMPLES_PER_LATENT,
    Audio,
    AudioFrame,
    EngineInfo,
    Utterance,
    VoiceState,
    Workload,
)


@dataclass(frozen=True, slots=True)
class FakeVoice:
    """A fake voice: only the length of its clip."""

    samples: int
    nbytes: int


@dataclass(slots=True)
class FakeScript:
    """What the fake does: seconds per block, how much audio it makes, when it fails."""

    block_s: float = 0.0
    #: Seconds of audio per character of text; the plan's blocks are the upper limit.
    audio_s_per_char: float = 0.06
    fail_before: bool = False
    fail_after_blocks: int | None = None
    refuse: bool = False
    #: The estimated wait that it reports.
    queue_wait_s: float = 0.0
    #: Replaces the sine: (utterance, block index, samples) -> audio.
    render: Callable[[Utterance, int, int], Audio] | None = None
    #: Every utterance the engine was given, in order.
    spoken: list[Utterance] = field(default_factory=list)
    #: Utterances of a longer text are too large.
    max_text: int | None = None
    #: Every utterance that was prepared, in order.
    prepared: list[Utterance] = field(default_factory=list)
    cancelled: list[Utterance] = field(default_factory=list)


class FakeEngine(Engine):
    """Speaks sines: frequency from seed and chunk, amplitude 0.3."""

    def __init__(self, script: FakeScript | None = None, info: EngineInfo | None = None) -> None:
        self.script = script or FakeScript()
        self._info = info or EngineInfo(
            name="echo-tts",
            preset_family="echo",
            sample_rate=SAMPLE_RATE,
            device="cpu",
            backend="fake",
            license="none",
        )

    @property
    @override
    def info(self) -> EngineInfo:
        return self._info

    @override
    def workload(self) -> Workload:
        return Workload(queue_wait_s=self.script.queue_wait_s)

    @override
    def prepare(self, utterance: Utterance) -> Utterance:
        if self.script.max_text is not None and len(utterance.text) > self.script.max_text:
            raise TooLarge("The text is too long.")
        self.script.prepared.append(utterance)
        return utterance

    @override
    def queue_wait(self, utterance: Utterance | None = None) -> float:
        if self.script.refuse:
            raise Overloaded("The server is busy. Try again shortly.", retry_after_s=1.0)
        return self.script.queue_wait_s

    @override
    def encode_voice(self, audio: Audio) -> Future[VoiceState]:
        done: Future[VoiceState] = Future()
        done.set_result(FakeVoice(samples=len(audio), nbytes=max(1, len(audio) // 100)))
        return done

    @override
    def speak(self, utterance: Utterance) -> FrameStream:
        stream = FrameStream()
        # The script of the moment: by the time that the thread runs, another one may have been set.
        script = self.script
        script.spoken.append(utterance)
        threading.Thread(target=_run, args=(script, utterance, stream), daemon=True).start()
        return stream

    @override
    def close(self) -> None:
        pass  # threads end with their utterance


def _run(script: FakeScript, utterance: Utterance, stream: FrameStream) -> None:
    started = time.perf_counter()
    if script.fail_before:
        stream.finish(EngineFailed("Generation failed."))
        return
    left = max(SAMPLES_PER_LATENT, int(len(utterance.text) * script.audio_s_per_char * SAMPLE_RATE))
    blocks = utterance.plan.blocks
    for index, block in enumerate(blocks):
        if script.block_s:
            time.sleep(script.block_s)
        if stream.cancelled:
            script.cancelled.append(utterance)
            break
        if script.fail_after_blocks is not None and index >= script.fail_after_blocks:
            stream.finish(EngineFailed("Generation failed."))
            return
        count = min(left, block.size * SAMPLES_PER_LATENT)
        left -= count
        samples = _render(script, utterance, index, count)
        if stream.cancelled:  # meanwhile
            script.cancelled.append(utterance)
            break
        last = left <= 0 or index == len(blocks) - 1
        stream.stats.blocks += 1
        stream.stats.steps += block.steps
        if index == 0:
            stream.stats.first_frame_s = time.perf_counter() - started
        stream.put(AudioFrame(samples, SAMPLE_RATE, utterance.chunk, index, last))
        if last:
            break
    stream.stats.total_s = time.perf_counter() - started
    stream.finish()


def _render(script: FakeScript, utterance: Utterance, block: int, count: int) -> Audio:
    if script.render is not None:
        return script.render(utterance, block, count)
    start = sum(b.size for b in utterance.plan.blocks[:block]) * SAMPLES_PER_LATENT
    hertz = 200.0 + (utterance.seed + utterance.chunk) % 200
    phase = 2 * np.pi * hertz / SAMPLE_RATE * np.arange(start, start + count)
    return np.asarray(0.3 * np.sin(phase), dtype=np.float32)
