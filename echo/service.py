"""SpeechService: a request's text, voice and plan -> a stream of encoded audio. The only orchestration."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from echo.errors import NotReady, Overloaded, failure_reason
from echo.limits import AnswerSize, RequestLimits, expected_seconds
from echo.pipeline import Pipeline
from echo.presets import chunk_rules
from echo.session import SpeechSession
from echo.steps import Slot, SpeechSteps, VoiceStates
from echo.text import EARLY, SpeakRules, split
from echo.text.times import SpokenText
from echo.timing.track import SpeechTimes
from echo.types import Listener, Segment, SpeechRequest


class SpeechService(SpeechSteps):
    """Turns requests into streams of encoded audio. One per runtime; used from the event loop."""

    async def open(self, request: SpeechRequest) -> SpeechStream:
        """Start speaking; return the stream at its first bytes.

        Everything that can fail early fails here, while an edge can still choose a status code: raises BadRequest,
        VoiceNotFound, TooLarge, Overloaded, NotReady or EngineFailed. Cancelling the call frees all it took.
        """
        return await self._open(request, whole=False)

    async def collect(self, request: SpeechRequest, size: AnswerSize | None = None) -> tuple[SpeechStream, bytes]:
        """Speak to the end and return the stream, exhausted, with the whole file.

        ``size`` is that of the answer where the file is not all of it. Raises what ``open`` does, BadRequest also for
        a file that is too large for one piece, and whatever fails later.
        """
        stream = await self._open(request, whole=True)
        return stream, await stream.collect(size)

    async def _open(self, request: SpeechRequest, *, whole: bool) -> SpeechStream:
        started = time.monotonic()
        # In a worker: cleaning up a long text would block the event loop.
        segments, seed, times = await self.run(self._prepare, request)
        self.quotas.spend(request.client, requests=1, characters=len(request.text))
        output = self.output(request)
        slot: Slot | None = None
        try:
            seconds = expected_seconds(segments, request.speed)
            self.rules.limits.check_estimate(seconds, output.bytes_per_s, whole=whole)
            asked = time.monotonic()
            clips = await self.clips(request)  # known, though there may be nothing to speak
            # Before the voice is encoded, which is device work; what the request itself needs is not known yet.
            if not request.background:
                slot = self.enter(request.client, waits=bool(segments))
            states = await self.states(clips, request.client) if segments else VoiceStates()
            voice_s = time.monotonic() - asked
            if segments:
                segments = await self.run(self.prepared, segments, states)
                # Other requests may have entered meanwhile. Nothing is awaited between this check and the first
                # ``engine.speak``, so a request that passes it is not refused later.
                if not request.background:
                    self.admission.check_wait(self.engine.queue_wait(segments[0].utterance))
        except BaseException as error:
            if slot is not None:
                slot.release()
            output.close()
            if isinstance(error, Overloaded | NotReady):
                self.quotas.refund(request.client, requests=1, characters=len(request.text))
            if isinstance(error, asyncio.CancelledError):
                self.count_cancelled()
            raise
        pipeline = self.pipeline(
            segments, output, self.joiner(), request.speed, started, streamed=not whole, times=times
        )
        pipeline.stats.voice_at_s, pipeline.stats.voice_s = asked - started, voice_s
        if slot is not None:
            pipeline.on_end(slot.release)
        stream = SpeechStream(pipeline, seed, self.rules.limits)
        await stream.prime()
        return stream

    def session(self, request: SpeechRequest, rules: SpeakRules = EARLY, *, files: bool = False) -> SpeechSession:
        """Speak a text that is still being written; ``rules`` say when.

        The request's own text, if any, comes first. ``files`` makes every passage a file of its own instead of a part
        of one stream. Raises BadRequest for a preset, an option or a format that cannot be used.
        """
        return SpeechSession(self, request, rules, files=files)

    def _prepare(self, request: SpeechRequest) -> tuple[list[Segment], int, SpeechTimes | None]:
        """Clean, split and check the text, plan its chunks, draw a seed; all that needs no device."""
        text = request.text.strip()
        self.rules.limits.check_text(text)
        chunks = split(text, self.rules.text, chunk_rules(self.rules.chunks, request.options))
        seed = self.seed(request)
        segments = self.segments(chunks, request, seed, Listener(background=request.background))
        return segments, seed, self.times(request, request.text, segments)


class SpeechStream:
    """The encoded audio of one request: an async iterator of bytes that must be closed.

    ``close`` may be called at any time, from the event loop, any number of times: it cancels what the engine still
    has to do and gives the admission slot back. An exhausted or failed stream closes itself.
    """

    def __init__(self, pipeline: Pipeline, seed: int, limits: RequestLimits) -> None:
        self.seed = seed
        self.output = pipeline.output
        self.stats = pipeline.stats
        #: When words are spoken; grows with the audio. None where the request did not ask.
        self.times = pipeline.times
        self._pipeline = pipeline
        self._limits = limits
        self._closed = False
        self._bytes = pipeline.run()
        self._first: bytes | None = None

    def spoken(self, text: str) -> SpokenText:
        """When the words of the text are spoken, the request's own, in seconds of an exhausted stream.

        Estimated between the first and the last sound where the request asked for no times.
        """
        if self.times is not None and self.times.words:
            return self.times.spoken()
        start_s, end_s = self.stats.speech_start_s or 0.0, self.stats.speech_end_s
        return SpokenText(text=text, start_s=start_s, end_s=self.stats.audio_s if end_s is None else end_s)

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
            if isinstance(error, Exception):
                self.stats.failure = failure_reason(error)
            self.close()
            raise

    async def collect(self, size: AnswerSize | None = None) -> bytes:
        """Read to the end and return the whole file; raises BadRequest once the answer is too large."""
        size = size or AnswerSize(self._limits)
        pieces: list[bytes] = []
        try:
            async for piece in self:
                size.add(len(piece))
                pieces.append(piece)
            return self.output.whole(b"".join(pieces))
        except BaseException:
            size.take_back(sum(map(len, pieces)))
            raise
        finally:
            self.close()

    def close(self) -> None:
        """Stop generating and free the slot."""
        if self._closed:
            return
        self._closed = True
        self._first = None
        self._pipeline.close()
