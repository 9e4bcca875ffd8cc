"""Pipeline: segments -> the engine's frames -> joined samples -> encoded bytes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Executor
from typing import TypeVar, TypeVarTuple

import numpy as np

from echo.audio.encode import Output
from echo.audio.join import Joiner
from echo.engines.base import Engine
from echo.limits import RequestLimits
from echo.playback import Playback
from echo.stats import SpeechStats
from echo.stream import FrameStream
from echo.timing.track import SpeechTimes
from echo.types import Audio, Segment, UtteranceStats

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

#: Encoders get at most this much audio per call, so that bytes keep flowing and no worker is held for long.
_SLICE_S = 1.0
#: Louder than this counts as audible when the speech span is measured (-40 dBFS).
_AUDIBLE = 0.01
#: Length of the silence that answers a text with nothing to speak ("*sighs*", "."), or of which the model made nothing.
#: Home Assistant checks a server with such a text and game mods send them; both take an error or no audio for a fault.
UNSPEAKABLE_S = 0.1


class Pipeline:
    """What the audio of consecutive segments goes through. It holds no reference to its reader and is freed with it.

    A request has one pipeline; the passages of a text that is still being written have one each, which share
    ``output``, ``joiner`` and ``playback``. ``started`` is when the text came, on the monotonic clock; times in
    ``stats`` count from there. ``times`` notes when words are spoken, in seconds from the pipeline's first sample.
    Iterate over ``run`` or ``speak`` once. ``stop`` may be called at any time from the event loop: it cancels what the
    engine still has to do, and an iteration that is waiting ends soon. ``freed`` is called, from any thread, with the
    seconds from there until the engine was done with a segment.
    """

    def __init__(
        self,
        segments: Sequence[Segment],
        *,
        engine: Engine,
        output: Output,
        joiner: Joiner,
        workers: Executor,
        limits: RequestLimits,
        speed: float,
        started: float,
        streamed: bool = True,
        playback: Playback | None = None,
        freed: Callable[[float], None] | None = None,
        times: SpeechTimes | None = None,
    ) -> None:
        self.times = times
        characters = sum(len(segment.utterance.text) for segment in segments)
        background = any(segment.utterance.listener.background for segment in segments)
        self.stats = SpeechStats(chunks=len(segments), characters=characters, streamed=streamed, background=background)
        self.output = output
        self._segments = segments
        self._started = started
        self._engine = engine
        self._joiner = joiner
        self._workers = workers
        self._limits = limits
        self._speed = speed
        self._playback = playback or Playback()
        self._freed = freed
        #: When the reader asked for more audio; None before the first.
        self._asked: float | None = None
        self._listeners: list[Callable[[Audio], None]] = []
        self._when_ended: list[Callable[[], None]] = []
        self._open: dict[int, FrameStream] = {}
        self._sent = 0  # samples
        self._stopped = False

    def on_samples(self, notify: Callable[[Audio], None]) -> None:
        """Have ``notify`` called with every piece of joined audio, before speed and encoding; must not write to it."""
        self._listeners.append(notify)

    def on_end(self, notify: Callable[[], None]) -> None:
        """Have ``notify`` called once, by ``stop``, which every reader calls in the end.

        It must not hold the reader, which would live until the next garbage collection, with the voice and the encoder.
        """
        self._when_ended.append(notify)

    def start(self) -> None:
        """Give the engine the first segment before anybody reads."""
        if self._segments:
            self._speak(0)

    async def run(self) -> AsyncGenerator[bytes]:
        """Yield the bytes of a whole answer; raises BadRequest once there is more audio than one request may have."""
        async for data in self.speak():
            yield data
        async for data in self.finish(at_least_s=UNSPEAKABLE_S):
            yield data

    async def speak(self) -> AsyncGenerator[bytes]:
        """Yield the bytes of the segments, but for the silence at the end, which depends on what follows."""
        async for samples in self._samples():
            async for data in self._send(samples):
                yield data
        if not self._stopped:
            self.stats.total_s = time.monotonic() - self._started

    async def catch_up(self) -> AsyncGenerator[bytes]:
        """Yield what a change of speed holds back after ``speak``, where more follows: the end of the last word."""
        if self._speed != 1.0 and (data := await self._encode(self.output.drain)):
            yield data

    async def rest(self, *, at_least_s: float = 0.0) -> AsyncGenerator[bytes]:
        """Yield all that is held back after ``speak``, where what follows may be long in coming.

        Where the segments made no audio at all, it is ``at_least_s`` of silence.
        """
        async for data in self._send(self._filled(self._joiner.rest(), at_least_s)):
            yield data
        if data := await self._encode(self.output.drain):
            yield data

    async def finish(self, *, at_least_s: float = 0.0) -> AsyncGenerator[bytes]:
        """Yield the last bytes of the answer: what the last sound leaves behind, and the end of the file.

        Where the segments made no audio at all, it is ``at_least_s`` of silence.
        """
        if self._stopped:
            return
        async for data in self._send(self._filled(self._joiner.finish(), at_least_s)):
            yield data
        if data := await self._encode(self.output.finish):
            yield data
        self.stats.total_s = time.monotonic() - self._started

    def _filled(self, rest: Audio, at_least_s: float) -> Audio:
        """Return the rest of the audio, or a silence where there is none at all."""
        if self.stats.audio_s or len(rest):
            return rest
        return np.zeros(int(at_least_s * self._engine.info.sample_rate), np.float32)

    def stop(self) -> None:
        """Stop generating; the encoder stays open."""
        self._stopped = True
        for stream in self._open.values():
            stream.cancel()
        for notify in self._when_ended:
            notify()
        self._when_ended = []

    def close(self) -> None:
        """Stop generating and free the encoder."""
        self.stop()
        self._workers.submit(self.output.close)  # waits for an encode that is still running in a worker

    async def _send(self, samples: Audio) -> AsyncGenerator[bytes]:
        step = int(_SLICE_S * self._engine.info.sample_rate)
        self._measure(samples)
        self._sent += len(samples)
        for notify in self._listeners:
            notify(samples)
        for start in range(0, len(samples), step):
            piece = samples[start : start + step]
            data = await self._encode(self.output.push, piece)
            seconds = len(piece) / self._engine.info.sample_rate / self._speed
            gap = self._playback.add(seconds, time.monotonic(), self._asked)
            self.stats.underrun_s = max(self.stats.underrun_s, gap)
            if data:
                yield data
                self._asked = time.monotonic()

    async def _samples(self) -> AsyncGenerator[Audio]:
        for index, segment in enumerate(self._segments):
            stream = self._speak(index)
            pause = segment.pause_before_ms
            async for frame in stream:
                if pause:  # not before the first frame: until then a failure still gets a status code
                    yield np.zeros(self._engine.info.sample_rate * pause // 1000, np.float32)
                    pause = 0
                # The next chunk is made while this one is sent; not earlier, or it would delay this one's start.
                if index + 1 < len(self._segments):
                    self._speak(index + 1)
                if self.stats.first_frame_s is None:
                    self.stats.queue_s = stream.stats.queue_s
                    self.stats.first_frame_s = time.monotonic() - self._started
                joined = self._joiner.push(frame)
                if self.times is not None:
                    origin = self._joiner.origin
                    where = None if origin is None else self._sent + origin
                    await self._in_worker(self.times.push, index, frame, where)
                yield joined
            if self._stopped:
                return
            self._count(stream.stats)
            if self.times is not None:
                await self._in_worker(self.times.end, index)
            del self._open[index]
            yield self._joiner.end_chunk(segment.pause_after_ms)

    def _speak(self, index: int) -> FrameStream:
        if index not in self._open:
            if self.stats.submitted_s is None:
                self.stats.submitted_s = time.monotonic() - self._started
            self._open[index] = stream = self._engine.speak(self._segments[index].utterance)
            if self._freed is not None:
                stream.on_freed(self._freed)
            if self._stopped:
                self._open[index].cancel()
        return self._open[index]

    def _count(self, done: UtteranceStats) -> None:
        self.stats.blocks += done.blocks
        self.stats.steps += done.steps
        self.stats.rerolls += done.rerolls
        self.stats.early_stops += done.early_stopped
        self.stats.generation_s += max(0.0, done.total_s - done.queue_s)

    def _measure(self, samples: Audio) -> None:
        """Update the span of audible sound and the length so far, in seconds of playback."""
        rate = self._engine.info.sample_rate * self._speed
        loud = np.flatnonzero(np.abs(samples) > _AUDIBLE)
        if len(loud):
            if self.stats.speech_start_s is None:
                self.stats.speech_start_s = self.stats.audio_s + float(loud[0]) / rate
            self.stats.speech_end_s = self.stats.audio_s + float(loud[-1] + 1) / rate
        self.stats.audio_s += len(samples) / rate
        self._limits.check_audio(self.stats.audio_s)

    async def _encode(self, function: Callable[..., bytes], *arguments: Audio) -> bytes:
        started = time.monotonic()
        if self.stats.encode_from_s is None:
            self.stats.encode_from_s = started - self._started
        data = await self._in_worker(function, *arguments)
        ended = time.monotonic()
        self.stats.encode_to_s = ended - self._started
        self.stats.transcode_s += ended - started
        return data

    async def _in_worker(self, function: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._workers, function, *arguments)
