"""SpeechService: voice -> chunks -> engine -> joined frames -> encoder. The only orchestration."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from echo.admission import Admission
from echo.audio.encode import Output, open_output
from echo.audio.join import Joiner, JoinRules
from echo.engines.base import Engine
from echo.errors import BadRequest
from echo.presets import Presets, chunk_rules
from echo.stream import FrameStream
from echo.telemetry import Metrics
from echo.text import split
from echo.text.estimate import estimate_seconds
from echo.types import (
    Audio,
    BlockPlan,
    ChunkRules,
    Listener,
    SpeechRequest,
    TextChunk,
    TextRules,
    Utterance,
    UtteranceStats,
    VoiceRef,
    VoiceState,
)
from echo.voices.cache import VoiceCache
from echo.voices.library import VoiceLibrary

log = logging.getLogger(__name__)

#: Encoders get at most this much audio per call, so that bytes keep flowing and no worker is held for long.
_SLICE_S = 1.0
#: Louder than this counts as audible when the speech span is measured (-40 dBFS).
_AUDIBLE = 0.01
#: What a text sounds like in which there is nothing to speak ("*sighs*", "."), or of which the model made nothing: Home
#: Assistant checks a server with such a text, game mods send them, and both take an error or no audio for a fault.
_UNSPEAKABLE_S = 0.1
#: Seeds drawn by us stay within what every JSON client can hold in a signed 32-bit integer.
_SEED_LIMIT = 2**31


@dataclass(slots=True)
class SpeechStats:
    """What a stream has done so far; final once it is exhausted. Times in seconds."""

    chunks: int = 0
    blocks: int = 0
    steps: int = 0
    rerolls: int = 0
    early_stops: int = 0
    audio_s: float = 0.0
    speech_start_s: float | None = None
    speech_end_s: float | None = None
    #: Wait of the first chunk before the engine took it up.
    queue_s: float | None = None
    first_frame_s: float | None = None
    total_s: float | None = None
    failed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceRules:
    """Limits and rules that hold for every request."""

    text: TextRules
    chunks: ChunkRules
    join: JoinRules
    max_input_chars: int = 4096
    #: Chunks after the first keep the streaming block shape.
    secondary_streaming: bool = False


class SpeechService:
    """Turns requests into streams of encoded audio. One per runtime; used from the event loop.

    ``on_open`` is shown every stream before it begins.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        voices: VoiceLibrary,
        cache: VoiceCache,
        presets: Presets,
        admission: Admission,
        rules: ServiceRules,
        workers: Executor,
        metrics: Metrics,
        on_open: Callable[[SpeechStream], None] | None = None,
    ) -> None:
        self.engine = engine
        self.voices = voices
        self.presets = presets
        self.admission = admission
        self.rules = rules
        self._cache = cache
        self._workers = workers
        self._metrics = metrics
        self._on_open = on_open

    async def open(self, request: SpeechRequest, *, client: str = "") -> SpeechStream:
        """Start speaking on behalf of a client ("" = nobody in particular); return the stream at its first bytes.

        Everything that can fail early fails here, while an edge can still choose a status code: raises
        BadRequest, VoiceNotFound, Overloaded, NotReady or EngineFailed. Cancelling the call frees all it took.
        """
        started = time.monotonic()
        chunks = self._chunks(request)
        plans = [self._plan(request, chunk) for chunk in chunks]
        output = open_output(request.format, self.engine.info.sample_rate, request.speed)
        seed = request.seed if request.seed is not None and request.seed >= 0 else secrets.randbelow(_SEED_LIMIT)
        work = self._work(chunks, plans, seed)
        try:
            ticket = self.admission.enter(
                self.engine.queue_wait(work), request.client
            )  # before the voice: encoding is device work
        except BaseException:
            output.close()
            raise
        try:
            voice = await self.voice_state(request.voice)
            work = [replace(utterance, voice=voice) for utterance in work]
            # Others may have come meanwhile. From here to the hand-over of the first utterance nothing is awaited, so
            # what passes is never refused later.
            self.admission.check_wait(self.engine.queue_wait(work))
        except BaseException:
            ticket.release()
            output.close()
            raise
        joiner = Joiner(self.engine.info.sample_rate, self.rules.join)
        stream = SpeechStream(self.engine, work, chunks, output, joiner, self._workers, request.speed, seed)
        stream.on_end(ticket.release)
        stream.on_end(lambda: self._count(stream.stats))
        stream.started = started
        if self._on_open is not None:
            self._on_open(stream)
        await stream.prime()
        return stream

    def _work(self, chunks: Sequence[TextChunk], plans: Sequence[BlockPlan], seed: int) -> list[Utterance]:
        listener, rules = Listener(), self.rules.chunks
        return [
            Utterance(
                text=chunk.text,
                plan=plan,
                seed=seed,
                chunk=chunk.index,
                listener=listener,
                estimate_s=estimate_seconds(chunk.text, rules.chars_per_s, rules.words_per_s),
            )
            for chunk, plan in zip(chunks, plans, strict=True)
        ]

    def _count(self, stats: SpeechStats) -> None:
        outcome = "done" if stats.total_s is not None else "failed" if stats.failed else "cancelled"
        self._metrics.requests.labels(outcome).inc()
        self._metrics.audio_seconds.inc(stats.audio_s)
        self._metrics.rerolls.inc(stats.rerolls)
        if stats.first_frame_s is not None:
            self._metrics.first_frame.observe(stats.first_frame_s)
        log.info("%s %s", outcome, stats)

    async def voice_state(self, ref: VoiceRef) -> VoiceState | None:
        """Return the encoded reference of a voice, from the cache or the engine; None = no reference."""
        voice = await self._run(self.voices.resolve, ref)
        return await self._cache.get(voice, self.engine.encode_voice) if voice is not None else None

    def _chunks(self, request: SpeechRequest) -> list[TextChunk]:
        text = request.text.strip()
        if not text:
            raise BadRequest("input: must not be empty.", param="input", code="missing_required_parameter")
        if len(text) > self.rules.max_input_chars:
            raise BadRequest(
                f"input: {len(text)} characters; at most {self.rules.max_input_chars} are allowed.",
                param="input",
                code="string_above_max_length",
            )
        return split(text, self.rules.text, chunk_rules(self.rules.chunks, request.chunking))

    def _plan(self, request: SpeechRequest, chunk: TextChunk) -> BlockPlan:
        secondary = chunk.index > 0 and not self.rules.secondary_streaming
        return self.presets.plan(
            request.sampler, preset=request.preset, streaming=request.streaming, secondary=secondary
        )

    async def _run(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._workers, function, *arguments)


class SpeechStream:
    """The encoded audio of one request: an async iterator of bytes that must be closed.

    ``close`` may be called at any time, from the event loop, any number of times: it cancels what the engine still
    has to do and gives the admission slot back. An exhausted or failed stream closes itself.
    """

    def __init__(
        self,
        engine: Engine,
        work: list[Utterance],
        chunks: list[TextChunk],
        output: Output,
        joiner: Joiner,
        workers: Executor,
        speed: float,
        seed: int,
    ) -> None:
        self.stats = SpeechStats(chunks=len(work))
        self.seed = seed
        self.output = output
        self._engine = engine
        self._work = work
        self._chunks = chunks
        self._joiner = joiner
        self._workers = workers
        self._speed = speed
        self._when_ended: list[Callable[[], None]] = []
        self._when_joined: list[Callable[[Audio], None]] = []
        self.started = time.monotonic()
        self._open: dict[int, FrameStream] = {}
        self._closed = False
        self._bytes = self._produce()
        self._first: bytes | None = None

    async def prime(self) -> None:
        """Wait for the first bytes, so that an early failure is raised here; closes the stream when it fails."""
        self._first = await self._next()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        if (data := await self._next()) is None:
            raise StopAsyncIteration
        return data

    async def _next(self) -> bytes | None:
        if self._closed:
            return None
        try:
            if (data := await anext(self._bytes, None)) is None:
                self.close()
            return data
        except BaseException as error:
            self.stats.failed = isinstance(error, Exception)
            self.close()
            raise

    def on_end(self, notify: Callable[[], None]) -> None:
        """Have ``notify`` called once, when the stream is exhausted, fails or is closed."""
        self._when_ended.append(notify)

    def on_samples(self, notify: Callable[[Audio], None]) -> None:
        """Have ``notify`` called with every piece of joined audio, before speed and encoding; must not write to it."""
        self._when_joined.append(notify)

    async def collect(self) -> bytes:
        """Read to the end and return the whole file."""
        return self.output.whole(b"".join([piece async for piece in self]))

    def close(self) -> None:
        """Stop generating and free the slot."""
        if self._closed:
            return
        self._closed = True
        self._first = None
        for stream in self._open.values():
            stream.cancel()
        self._workers.submit(self.output.close)  # waits for an encode that is still running in a worker
        for notify in self._when_ended:
            notify()

    async def _produce(self) -> AsyncGenerator[bytes]:
        step = int(_SLICE_S * self._engine.info.sample_rate)
        async for samples in self._samples():
            self._measure(samples)
            for notify in self._when_joined:
                notify(samples)
            for start in range(0, len(samples), step):
                if data := await self._encode(self.output.push, samples[start : start + step]):
                    yield data
        if self._closed:
            return
        if data := await self._encode(self.output.finish):
            yield data
        self.stats.total_s = time.monotonic() - self.started

    async def _samples(self) -> AsyncGenerator[Audio]:
        for utterance, chunk in zip(self._work, self._chunks, strict=True):
            stream = self._speak(utterance.chunk)
            pause = chunk.pause_before_ms
            async for frame in stream:
                if pause:  # not before the first frame: until then a failure still gets a status code
                    yield np.zeros(self._engine.info.sample_rate * pause // 1000, np.float32)
                    pause = 0
                # The next chunk is made while this one is sent; not earlier, or it would delay this one's start.
                if utterance.chunk + 1 < len(self._work):
                    self._speak(utterance.chunk + 1)
                if self.stats.first_frame_s is None:
                    self.stats.queue_s = stream.stats.queue_s
                    self.stats.first_frame_s = time.monotonic() - self.started
                yield self._joiner.push(frame)
            if self._closed:
                return
            self._count(stream.stats)
            del self._open[utterance.chunk]
            yield self._joiner.end_chunk(chunk.pause_after_ms)
        yield self._joiner.finish()
        if self.stats.audio_s == 0:
            yield np.zeros(int(_UNSPEAKABLE_S * self._engine.info.sample_rate), np.float32)

    def _speak(self, index: int) -> FrameStream:
        if index not in self._open:
            self._open[index] = self._engine.speak(self._work[index])
            if self._closed:
                self._open[index].cancel()
        return self._open[index]

    def _count(self, done: UtteranceStats) -> None:
        self.stats.blocks += done.blocks
        self.stats.steps += done.steps
        self.stats.rerolls += done.rerolls
        self.stats.early_stops += done.early_stopped

    def _measure(self, samples: Audio) -> None:
        """Follow where sound begins and ends, on the time axis of what the listener hears."""
        rate = self._engine.info.sample_rate * self._speed
        loud = np.flatnonzero(np.abs(samples) > _AUDIBLE)
        if len(loud):
            if self.stats.speech_start_s is None:
                self.stats.speech_start_s = self.stats.audio_s + float(loud[0]) / rate
            self.stats.speech_end_s = self.stats.audio_s + float(loud[-1] + 1) / rate
        self.stats.audio_s += len(samples) / rate

    async def _encode(self, function: Callable[..., bytes], *arguments: Audio) -> bytes:
        return await asyncio.get_running_loop().run_in_executor(self._workers, function, *arguments)
