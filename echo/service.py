"""SpeechService: a request's text, voice and plan -> a stream of encoded audio. The only orchestration."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar, TypeVarTuple

from echo.admission import Admission
from echo.audio.encode import open_output
from echo.audio.join import Joiner, JoinRules
from echo.engines.base import Engine
from echo.limits import RequestLimits, expected_seconds
from echo.pipeline import Pipeline, SpeechStats
from echo.presets import Presets, chunk_rules
from echo.telemetry import Metrics
from echo.text import split
from echo.text.pack import estimate_seconds
from echo.types import (
    Audio,
    BlockPlan,
    ChunkRules,
    Listener,
    Segment,
    SpeechRequest,
    TextRules,
    Utterance,
    VoiceRef,
    VoiceState,
)
from echo.voices.cache import VoiceCache
from echo.voices.library import VoiceLibrary

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

log = logging.getLogger(__name__)

#: Seeds drawn by us stay within what every JSON client can hold in a signed 32-bit integer.
_SEED_LIMIT = 2**31


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceRules:
    """Limits and rules that hold for every request."""

    text: TextRules
    chunks: ChunkRules
    join: JoinRules
    limits: RequestLimits = field(default_factory=RequestLimits)
    #: Chunks after the first keep the streaming block shape.
    secondary_streaming: bool = False


class SpeechService:
    """Turns requests into streams of encoded audio. One per runtime; used from the event loop.

    ``on_open`` is called with every stream before its first bytes are awaited.
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

    async def open(self, request: SpeechRequest) -> SpeechStream:
        """Start speaking; return the stream at its first bytes.

        Everything that can fail early fails here, while an edge can still choose a status code: raises
        BadRequest, VoiceNotFound, Overloaded, NotReady or EngineFailed. Cancelling the call frees all it took.
        """
        return await self._open(request, whole=False)

    async def collect(self, request: SpeechRequest) -> tuple[SpeechStream, bytes]:
        """Speak to the end and return the stream, exhausted, with the whole file.

        Raises what ``open`` does, BadRequest also for a file that is too large for one piece, and whatever fails later.
        """
        stream = await self._open(request, whole=True)
        return stream, await stream.collect()

    async def _open(self, request: SpeechRequest, *, whole: bool) -> SpeechStream:
        started = time.monotonic()
        # In a worker: cleaning up a long text would block the event loop.
        segments, seed = await self._run(self._prepare, request)
        output = open_output(request.format, self.engine.info.sample_rate, request.speed)
        try:
            seconds = expected_seconds(segments, request.speed)
            self.rules.limits.check_estimate(seconds, output.bytes_per_s, whole=whole)
            # Before the voice: encoding is device work.
            ticket = self.admission.enter(self._queue_wait(segments), request.client)
        except BaseException:
            output.close()
            raise
        try:
            if segments:
                voice = await self.voice_state(request.voice, request.client)
                clip = request.emotion.clip if request.emotion else None
                emotion = await self.voice_state(clip, request.client) if clip else None
                segments = [
                    replace(each, utterance=replace(each.utterance, voice=voice, emotion_voice=emotion))
                    for each in segments
                ]
            else:
                await self._run(self.voices.resolve, request.voice)  # it has nothing to speak, but must be known
            # Other requests may have entered meanwhile. Nothing is awaited between this check and the first
            # ``engine.speak``, so a request that passes it is not refused later.
            self.admission.check_wait(self._queue_wait(segments))
        except BaseException:
            ticket.release()
            output.close()
            raise
        pipeline = Pipeline(
            segments,
            engine=self.engine,
            output=output,
            joiner=Joiner(self.engine.info.sample_rate, self.rules.join),
            workers=self._workers,
            limits=self.rules.limits,
            speed=request.speed,
            started=started,
        )
        stream = SpeechStream(pipeline, seed, self.rules.limits)
        stream.on_end(ticket.release)
        stream.on_end(partial(self._count, stream.stats))
        if self._on_open is not None:
            self._on_open(stream)
        await stream.prime()
        return stream

    def _prepare(self, request: SpeechRequest) -> tuple[list[Segment], int]:
        """Clean, split and check the text, plan its chunks, draw a seed; all that needs no device."""
        limits, rules = self.rules.limits, self.rules.chunks
        text = request.text.strip()
        limits.check_text(text)
        chunks = split(text, self.rules.text, chunk_rules(rules, request.options))
        seed = request.seed if request.seed is not None and request.seed >= 0 else secrets.randbelow(_SEED_LIMIT)
        first, later = (self._plan(request, secondary=secondary) for secondary in (False, True))
        listener = Listener()
        segments = [
            Segment(
                utterance=Utterance(
                    text=chunk.text,
                    plan=later if chunk.index else first,
                    seed=seed,
                    chunk=chunk.index,
                    emotion=request.emotion,
                    listener=listener,
                    estimate_s=estimate_seconds(chunk.text, rules.chars_per_s, rules.words_per_s),
                ),
                pause_before_ms=chunk.pause_before_ms,
                pause_after_ms=chunk.pause_after_ms,
            )
            for chunk in chunks
        ]
        limits.check_segments(segments)
        return segments, seed

    def _queue_wait(self, segments: Sequence[Segment]) -> float:
        return self.engine.queue_wait([segment.utterance for segment in segments])

    def _count(self, stats: SpeechStats) -> None:
        outcome = "done" if stats.total_s is not None else "failed" if stats.failed else "cancelled"
        self._metrics.requests.labels(outcome).inc()
        self._metrics.audio_seconds.inc(stats.audio_s)
        self._metrics.rerolls.inc(stats.rerolls)
        if stats.first_frame_s is not None:
            self._metrics.first_frame.observe(stats.first_frame_s)
        log.info("%s %s", outcome, stats)

    async def voice_state(self, ref: VoiceRef, client: str = "") -> VoiceState | None:
        """Return the encoded reference of a voice, from the cache or the engine; None = no reference.

        A new voice is read for ``client``; raises Overloaded where too many wait to be read.
        """
        voice = await self._run(self.voices.resolve, ref)
        return await self._cache.get(voice, self.engine.encode_voice, client) if voice is not None else None

    def _plan(self, request: SpeechRequest, *, secondary: bool) -> BlockPlan:
        return self.presets.plan(
            request.options,
            preset=request.preset,
            streaming=request.streaming,
            secondary=secondary and not self.rules.secondary_streaming,
        )

    async def _run(self, function: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._workers, function, *arguments)


class SpeechStream:
    """The encoded audio of one request: an async iterator of bytes that must be closed.

    ``close`` may be called at any time, from the event loop, any number of times: it cancels what the engine still
    has to do and gives the admission slot back. An exhausted or failed stream closes itself.
    """

    def __init__(self, pipeline: Pipeline, seed: int, limits: RequestLimits) -> None:
        self.seed = seed
        self.output = pipeline.output
        self.stats = pipeline.stats
        self._pipeline = pipeline
        self._limits = limits
        self._when_ended: list[Callable[[], None]] = []
        self._closed = False
        self._bytes = pipeline.run()
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
        """Have ``notify`` called once, when the stream is exhausted, fails or is closed.

        It must not hold the stream, which would live until the next garbage collection, with the voice and the encoder.
        """
        self._when_ended.append(notify)

    def on_samples(self, notify: Callable[[Audio], None]) -> None:
        """Have ``notify`` called with every piece of joined audio, before speed and encoding; must not write to it."""
        self._pipeline.on_samples(notify)

    async def collect(self) -> bytes:
        """Read to the end and return the whole file; raises BadRequest for one that is too large."""
        try:
            pieces, size = [], 0
            async for piece in self:
                pieces.append(piece)
                size += len(piece)
                self._limits.check_size(size)
            return self.output.whole(b"".join(pieces))
        finally:
            self.close()

    def close(self) -> None:
        """Stop generating and free the slot."""
        if self._closed:
            return
        self._closed = True
        self._first = None
        self._pipeline.stop()
        for notify in self._when_ended:
            notify()
        self._when_ended = []
