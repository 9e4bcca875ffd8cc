"""SpeechSession: a text that is still being written -> its audio and events while it is spoken."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from echo.errors import BadRequest, EchoError, EngineFailed, Overloaded, failure_reason
from echo.pipeline import UNSPEAKABLE_S, Pipeline
from echo.playback import Playback
from echo.presets import chunk_rules
from echo.steps import Slot, SpeechSteps, VoiceStates
from echo.text import Passage, SpeakRules, TextBuffer, TextChunker
from echo.text.times import Mark, SpokenText
from echo.types import Listener, SpeechRequest

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Text that may wait in one session, in characters: about an hour of speech.
MAX_WAITING_CHARS = 50_000
#: Passages and flushes that may wait in one session.
MAX_WAITING = 1_000
#: A turn that has begun waits this long for a slot, and looks this often, before its next passage fails, in seconds.
_SLOT_PATIENCE_S = 10.0
_SLOT_INTERVAL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class PassageStarted:
    """The audio of a passage follows. ``source`` is its text as it was written, blanks included."""

    index: int
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PassageDone:
    """All audio of a passage has been yielded, but for the silence behind it, which comes with the next.

    Seconds from the session's first sample, as the listener hears them: where the passage lies, and within it the
    audible speech (None: no sound). ``flushed``: a ``Flushed`` follows at once.
    """

    index: int
    source: str
    start_s: float
    end_s: float
    speech_start_s: float | None
    speech_end_s: float | None
    flushed: bool
    #: Times of the source's words that the request asked for; None: the passage made no sound, or nobody asked.
    times: SpokenText | None = None

    def spoken(self) -> SpokenText:
        """When the words of the source are spoken, in seconds from the session's first sample.

        Estimated between the first and the last sound where no times were asked for.
        """
        if self.times is not None:
            return self.times
        start_s = self.start_s if self.speech_start_s is None else self.speech_start_s
        end_s = self.end_s if self.speech_end_s is None else self.speech_end_s
        words = self.source.strip()
        before = len(self.source) - len(self.source.lstrip())
        edges = (Mark(before, start_s), Mark(before + len(words), end_s)) if words else ()
        return SpokenText(text=self.source, start_s=start_s, end_s=end_s, marks=edges)


@dataclass(frozen=True, slots=True, kw_only=True)
class PassageFailed:
    """A passage ends here because of an error; the session goes on with the next."""

    index: int
    source: str
    error: EchoError
    flushed: bool


@dataclass(frozen=True, slots=True)
class Flushed:
    """Everything that was fed before a ``flush`` has been spoken; one for each flush, in order."""


SessionEvent = bytes | PassageStarted | PassageDone | PassageFailed | Flushed
"""Encoded audio, or what happens between it."""


@dataclass(slots=True, kw_only=True)
class _Waiting:
    """A passage that waits for its turn; ``pipeline`` and ``error`` once it has been prepared."""

    passage: Passage
    arrived: float
    flushed: bool = False
    pipeline: Pipeline | None = None
    error: EchoError | None = None


class SpeechSession:
    """The speech of one turn: text in pieces in, audio and events out; used from the event loop.

    ::

        session = service.session(SpeechRequest(text="", voice=voice))
        session.feed("Hello the")
        session.feed("re. How are ")
        session.end()
        async for event in session: ...

    ``feed``, ``flush``, ``end`` and ``close`` return at once and may be called while somebody iterates. The session
    has one voice, one seed and one encoder; it holds an admission slot only while it has something to speak. It must be
    closed; ``close`` stops the engine within a step, and the iteration ends. The next passage is given to the engine
    when the first audio of the one before it has arrived.
    """

    def __init__(self, steps: SpeechSteps, request: SpeechRequest, rules: SpeakRules, *, files: bool = False) -> None:
        self.seed = steps.seed(request)
        steps.plan(request)  # refuses a wrong option now, not at the first words
        self.output = steps.output(request)
        self._steps = steps
        self._request = request
        self._files = files
        self._buffer = TextBuffer(rules, markup=steps.rules.text.strip_markup)
        self._chunker = TextChunker(steps.rules.text, chunk_rules(steps.rules.chunks, request.options))
        self._joiner = steps.joiner()
        self._listener = Listener()
        self._voice: VoiceStates | None = None
        self._slot: Slot | None = None
        self._queue: deque[_Waiting | Flushed] = deque()
        self._ahead: _Waiting | None = None
        self._pipeline: Pipeline | None = None  # of the passage being spoken
        self._file = self.output  # of the passage that was spoken last
        self._reading: asyncio.Future[Any] | None = None  # the voice
        self._index = 0
        self._counted = False  # as one of the client's requests
        self._spoken = False  # a passage has been spoken
        self._heard_s = 0.0  # audio that has been given to the encoder
        self._playback = Playback()
        self._files_s = 0.0  # length of all files so far
        self._chars = 0  # of the passages that are not spoken yet
        self._ended = False
        self._closed = False
        self._changed = asyncio.Event()
        self._events: AsyncGenerator[SessionEvent] | None = self._run()
        if request.text:
            self.feed(request.text)

    @property
    def busy(self) -> bool:
        """Whether something is being spoken or waits for its turn; buffered text does not count."""
        return self._pipeline is not None or self._ahead is not None or bool(self._queue)

    @property
    def waiting_chars(self) -> int:
        """Characters of text that have not been spoken yet."""
        return self._chars + self._buffer.length

    def feed(self, text: str, *, counted: bool = False) -> None:
        """Take more text, which may have been ``counted`` already.

        Takes nothing and raises Overloaded while too much is waiting, or beyond the client's limits; BadRequest after
        ``end``.
        """
        self._require_open(len(text))
        if not counted:
            self.count(text)
        self._put(self._buffer.append(text, time.monotonic()))

    def count(self, text: str) -> None:
        """Count text that is going to be fed, the first as a request too; raises Overloaded beyond a limit."""
        begins = not self._counted and not text.isspace() and bool(text)
        self._steps.quotas.spend(self._request.client, requests=int(begins), characters=len(text))
        self._counted = self._counted or begins

    def trigger(self) -> None:
        """Speak what can be spoken now: whole sentences, else clauses, whatever the rules say."""
        self._require_open()
        self._put(self._buffer.speakable_now())

    def flush(self) -> None:
        """Speak all text that has been fed; a ``Flushed`` follows its audio, even if there was nothing to speak."""
        self._require_open()
        self._put(self._buffer.flush(), flushed=True)
        self._queue.append(Flushed())

    def end(self) -> None:
        """Speak all text that has been fed, then end the stream; no more text may come."""
        if not self._ended and not self._closed:
            self._put(self._buffer.flush())
            self._ended = True

    def close(self) -> None:
        """Stop speaking at once, drop all text and give the slot back; may be called any number of times."""
        if self._closed:
            return
        self._closed = True
        for pipeline in (self._pipeline, self._ahead.pipeline if self._ahead is not None else None):
            if pipeline is not None:
                pipeline.stop()
        self._pipeline = self._ahead = None
        if self._reading is not None:
            self._reading.cancel()
        self._queue.clear()
        self._events = None  # a suspended generator would keep the session, with the voice, in a reference cycle
        self._leave()
        self._steps.workers.submit(self.output.close)  # waits for an encode that is still running in a worker
        self._changed.set()

    def whole(self, file: bytes) -> bytes:
        """Return a passage's file, all of its bytes, complete: with ``files``, after the passage's ``PassageDone``."""
        return self._file.whole(file)

    def __aiter__(self) -> AsyncIterator[SessionEvent]:
        return self

    async def __anext__(self) -> SessionEvent:
        if self._events is None:
            raise StopAsyncIteration
        return await anext(self._events)

    # -- text in

    def _require_open(self, more: int = 0) -> None:
        if self._ended or self._closed:
            raise BadRequest("text: the text has been ended already.", param="text")
        if self.waiting_chars + more > MAX_WAITING_CHARS or len(self._queue) >= MAX_WAITING:
            raise Overloaded(
                f"text: {self.waiting_chars} characters are waiting to be spoken. Send more later.", retry_after_s=1.0
            )

    def _put(self, passages: list[Passage], *, flushed: bool = False) -> None:
        now = time.monotonic()
        for number, passage in enumerate(passages, 1):
            self._chars += len(passage.source)
            self._queue.append(_Waiting(passage=passage, arrived=now, flushed=flushed and number == len(passages)))
        self._changed.set()

    # -- audio out

    async def _run(self) -> AsyncGenerator[SessionEvent]:
        try:
            while (item := await self._next()) is not None:
                if isinstance(item, Flushed):
                    yield item
                    continue
                async for event in self._speak(item):
                    yield event
            async for data in self._end_stream():
                yield data
        finally:
            self.close()

    async def _next(self) -> _Waiting | Flushed | None:
        """Wait for the next item; None after the last. While there is none, the session holds no slot."""
        while not self._closed:
            self._changed.clear()
            delay = self._delay()
            if self._ahead is not None:
                ahead, self._ahead = self._ahead, None
                return ahead
            if self._queue:
                return self._queue.popleft()
            self._leave()
            if self._ended:
                return None
            try:
                async with asyncio.timeout(delay):
                    await self._changed.wait()
            except TimeoutError:
                continue
        return None

    def _delay(self) -> float | None:
        """Queue the buffered text if it is overdue, else return the seconds until it is; None where it never is."""
        if self._ended or (deadline := self._buffer.deadline) is None:
            return None
        delay = deadline - time.monotonic()
        if delay > 0:
            return delay
        self._put(self._buffer.flush())
        return None

    async def _speak(self, item: _Waiting) -> AsyncGenerator[SessionEvent]:
        index, source = self._index, item.passage.source
        self._index += 1
        yield PassageStarted(index=index, source=source)
        await self._prepare(item)
        if self._closed:
            return
        self._pipeline = pipeline = item.pipeline
        error, start_s = item.error, 0.0
        if pipeline is not None:
            self._file = pipeline.output
            start_s = pipeline.output.duration_s
            if self._playback.has_run_dry(time.monotonic()):
                self._joiner.resume()
            try:
                async for data in pipeline.run() if self._files else pipeline.speak():
                    yield data
                    await self._look_ahead()
                if not self._files:
                    async for data in self._last_of(pipeline):
                        yield data
            except Exception as failure:
                pipeline.stats.failure = failure_reason(failure)
                error = _client_error(failure)
            finally:
                self._pipeline = None
                if self._files:
                    pipeline.close()
                else:
                    pipeline.stop()
        self._chars -= len(source)
        if self._closed:
            return
        if error is not None:
            yield PassageFailed(index=index, source=source, error=error, flushed=item.flushed)
            return
        assert pipeline is not None
        self._spoken = True
        yield self._done(item, index, pipeline, start_s)

    def _last_of(self, pipeline: Pipeline) -> AsyncGenerator[bytes]:
        """What a passage leaves behind."""
        if self._has_more():
            return pipeline.catch_up()
        end = pipeline.finish if self._ended else pipeline.rest
        return end(at_least_s=UNSPEAKABLE_S)

    def _done(self, item: _Waiting, index: int, pipeline: Pipeline, start_s: float) -> PassageDone:
        end_s, before_s = pipeline.output.duration_s, self._files_s
        # What is measured is the audio that goes into the encoder, which may still hold some of it.
        origin_s, stats = self._heard_s, pipeline.stats
        if self._files:
            self._files_s += end_s
            origin_s = 0.0
        else:
            self._heard_s += stats.audio_s

        def place(seconds: float) -> float:
            return before_s + min(max(start_s, origin_s + seconds), end_s)

        def at(seconds: float | None) -> float | None:
            return None if seconds is None else place(seconds)

        return PassageDone(
            index=index,
            source=item.passage.source,
            start_s=before_s + start_s,
            end_s=before_s + end_s,
            speech_start_s=at(stats.speech_start_s),
            speech_end_s=at(stats.speech_end_s),
            flushed=item.flushed,
            times=pipeline.times.spoken().placed(place)
            if pipeline.times is not None and pipeline.times.words
            else None,
        )

    def _has_more(self) -> bool:
        return self._ahead is not None or any(isinstance(item, _Waiting) for item in self._queue)

    async def _look_ahead(self) -> None:
        """Give the engine the next passage, if there is one, while this one is being sent."""
        if self._ahead is None and self._queue and isinstance(self._queue[0], _Waiting):
            item = self._queue.popleft()
            assert isinstance(item, _Waiting)
            self._ahead = item
            await self._prepare(item)
            if item.pipeline is not None and not self._closed:
                item.pipeline.start()

    async def _prepare(self, item: _Waiting) -> None:
        """Make a passage's pipeline, or note why there is none; does nothing for one that has been prepared."""
        if item.pipeline is not None or item.error is not None:
            return
        try:
            item.pipeline = await self._pipeline_of(item)
        except Exception as failure:
            item.error = _client_error(failure)
        finally:
            if item.pipeline is None and item.error is None:
                self._steps.count_cancelled()

    async def _pipeline_of(self, item: _Waiting) -> Pipeline | None:
        """Make a passage's pipeline; None if the session has been closed meanwhile."""
        steps, request = self._steps, self._request
        chunks = await steps.run(self._chunker.chunks, item.passage)
        asked = time.monotonic()
        voice_s = 0.0
        segments = steps.segments(chunks, request, self.seed, self._listener)
        if segments:
            clips = None if self._voice else await self._unless_closed(steps.clips(request))
            await self._enter()
            if clips is not None and not self._closed:
                self._voice = await self._unless_closed(steps.states(clips, request.client))
                voice_s = time.monotonic() - asked
            if self._closed or self._voice is None:
                return None
            segments = await steps.run(steps.prepared, segments, self._voice)
            if not self._spoken:
                steps.admission.check_wait(steps.engine.queue_wait(segments[0].utterance))
        output = steps.output(request) if self._files else self.output
        joiner = steps.joiner() if self._files else self._joiner
        times = await steps.run(steps.times, request, item.passage.source, segments)
        pipeline = steps.pipeline(
            segments, output, joiner, request.speed, item.arrived, playback=self._playback, times=times
        )
        pipeline.stats.voice_at_s, pipeline.stats.voice_s = asked - item.arrived, voice_s
        if self._closed:
            pipeline.close()
        return pipeline

    async def _unless_closed(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Await something slow about the voice; None, and the work cancelled, once the session is closed."""
        task = self._reading = asyncio.ensure_future(work)
        try:
            await asyncio.wait((task,))
            return None if task.cancelled() and self._closed else task.result()
        finally:
            self._reading = None
            task.cancel()  # has no effect unless this task was cancelled
            del task  # the traceback of its failure holds this frame

    async def _enter(self) -> None:
        """Take a slot. A turn that has begun waits for one; raises Overloaded."""
        patience = time.monotonic() + (_SLOT_PATIENCE_S if self._spoken else 0.0)
        while self._slot is None and not self._closed:
            try:
                self._slot = self._steps.enter(self._request.client)
            except Overloaded:
                if time.monotonic() >= patience:
                    raise
                await asyncio.sleep(_SLOT_INTERVAL_S)

    def _leave(self) -> None:
        if self._slot is not None:
            self._slot.release()
            self._slot = None

    async def _end_stream(self) -> AsyncGenerator[bytes]:
        """Yield what the encoder still holds, where the last passage did not know that it was the last."""
        if self._files or self._closed:
            return
        for end in (lambda: self.output.push(self._joiner.finish()), self.output.finish):
            if data := await self._steps.run(end):
                yield data


def _client_error(failure: Exception) -> EchoError:
    """Return the error for the client; logs any other exception."""
    if isinstance(failure, EchoError):
        return failure
    log.error("speaking a passage failed", exc_info=failure)
    return EngineFailed("Generation failed.")
