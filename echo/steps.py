"""The steps from a text to its audio that whole requests and sessions share."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar, TypeVarTuple

from echo.admission import Admission, Ticket
from echo.audio.encode import Output, open_output
from echo.audio.join import Joiner, JoinRules
from echo.emotion import about_the_clip, check_emotion
from echo.engine_options import check_options
from echo.engines.base import Engine
from echo.errors import EchoError, VoiceNotFound
from echo.limits import RequestLimits
from echo.pipeline import Pipeline
from echo.playback import Playback
from echo.presets import Presets
from echo.quota import Quotas, Stream
from echo.sizing import sized_plan
from echo.stats import SpeechStats
from echo.telemetry import Metrics
from echo.text.pack import estimate_seconds
from echo.timing.track import SpeechTimes
from echo.tracing import Tracing
from echo.types import (
    BlockPlan,
    ChunkRules,
    Listener,
    Segment,
    SpeechRequest,
    TextChunk,
    TextRules,
    Utterance,
    VoiceRef,
    VoiceState,
)
from echo.voices.cache import VoiceCache
from echo.voices.library import VoiceLibrary
from echo.voices.remote import RemoteVoices
from echo.voices.voice import ClipVoice, Voice

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

log = logging.getLogger(__name__)

#: Seeds drawn by us stay within what every JSON client can hold in a signed 32-bit integer.
_SEED_LIMIT = 2**31


def seed_or_drawn(given: int | None) -> int:
    """Return the seed that is given; one that is drawn for None and for numbers below 0."""
    return given if given is not None and given >= 0 else secrets.randbelow(_SEED_LIMIT)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceRules:
    """Limits and rules that hold for every request."""

    text: TextRules
    chunks: ChunkRules
    join: JoinRules
    limits: RequestLimits = field(default_factory=RequestLimits)
    #: Chunks after the first keep the streaming block shape.
    secondary_streaming: bool = False
    #: Names of the options that some engine of this server has.
    engine_options: frozenset[str] = frozenset()


Resolved = Voice | ClipVoice | VoiceState | None
"""A voice: of the library, a clip, one of the engine's own, or none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clips:
    """The voice that a request wants, and the clip of its emotion; None = none."""

    voice: Resolved
    emotion: Resolved


@dataclass(frozen=True, slots=True, kw_only=True)
class VoiceStates:
    """``Clips``, encoded."""

    voice: VoiceState | None = None
    emotion: VoiceState | None = None


class Slot:
    """A place among the open requests, and one of the client's streams; given back once, however often it is."""

    def __init__(self, ticket: Ticket, stream: Stream) -> None:
        self._ticket = ticket
        self._stream = stream

    def release(self) -> None:
        """Give both back."""
        self._ticket.release()
        self._stream.release()


class SpeechSteps:
    """What speaking needs, and the steps of it. One per runtime, as :class:`~echo.service.SpeechService`.

    ``on_open`` is called with every pipeline before anything is read from it.
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
        tracing: Tracing | None = None,
        remote: RemoteVoices | None = None,
        quotas: Quotas | None = None,
        on_open: Callable[[Pipeline], None] | None = None,
    ) -> None:
        self.engine = engine
        self.voices = voices
        self.presets = presets
        self.admission = admission
        self.rules = rules
        self._cache = cache
        self.workers = workers
        self._counts = metrics.of(engine.info.name)
        self._tracing = tracing
        self._remote = remote
        self.quotas = quotas or Quotas()
        self._on_open = on_open

    def enter(self, client: str, *, waits: bool = True) -> Slot:
        """Take a place for a client's request; ``waits`` for the engine, unless there is nothing to speak.

        Raises Overloaded, or NotReady once nothing new is taken.
        """
        stream = self.quotas.open(client)
        try:
            return Slot(self.admission.enter(self.engine.queue_wait() if waits else 0.0, client), stream)
        except EchoError:
            stream.release()
            raise

    def joiner(self) -> Joiner:
        """Return what joins the segments of one stream of audio."""
        return Joiner(self.engine.info.sample_rate, self.rules.join)

    def output(self, request: SpeechRequest) -> Output:
        """Open the request's encoder; raises BadRequest."""
        return open_output(request.format, self.engine.info.sample_rate, request.speed)

    def pipeline(
        self,
        segments: Sequence[Segment],
        output: Output,
        joiner: Joiner,
        speed: float,
        started: float,
        *,
        streamed: bool = True,
        playback: Playback | None = None,
        times: SpeechTimes | None = None,
    ) -> Pipeline:
        """Return the way of segments through engine and encoder; counted in the metrics when it is stopped."""
        pipeline = Pipeline(
            segments,
            engine=self.engine,
            output=output,
            joiner=joiner,
            workers=self.workers,
            limits=self.rules.limits,
            speed=speed,
            started=started,
            streamed=streamed,
            playback=playback,
            freed=self._counts.freed,
            times=times,
        )
        pipeline.on_end(partial(self._count, pipeline.stats))
        if self._tracing is not None:
            pipeline.on_end(self._tracing.speech(self._counts.model, pipeline.stats, started))
        if self._on_open is not None:
            self._on_open(pipeline)
        return pipeline

    def times(self, request: SpeechRequest, source: str, segments: Sequence[Segment]) -> SpeechTimes | None:
        """Return what notes the times of the words of ``source``, of which the segments are made; None: not wanted."""
        if not request.times:
            return None
        chunks = [segment.utterance.text for segment in segments]
        return SpeechTimes(
            source, chunks, self.engine.info.sample_rate, request.speed, spelled_out=self.rules.text.spell_out
        )

    def seed(self, request: SpeechRequest) -> int:
        """Return the request's seed, or draw one."""
        return seed_or_drawn(request.seed)

    def segments(
        self, chunks: Iterable[TextChunk], request: SpeechRequest, seed: int, listener: Listener
    ) -> list[Segment]:
        """Plan the chunks of a text, those of a later passage like the first; raises BadRequest for too many."""
        rules = self.rules.chunks
        first, later = (self.plan(request, secondary=secondary) for secondary in (False, True))
        options = self.options(request)
        segments = [
            Segment(
                utterance=Utterance(
                    text=chunk.text,
                    plan=sized_plan(later if number else first, seconds),
                    seed=seed,
                    chunk=chunk.index,
                    emotion=request.emotion,
                    options=options,
                    listener=listener,
                    times=request.times,
                    estimate_s=seconds,
                ),
                pause_before_ms=chunk.pause_before_ms,
                pause_after_ms=chunk.pause_after_ms,
            )
            for number, chunk in enumerate(chunks)
            for seconds in [estimate_seconds(chunk.text, rules.chars_per_s, rules.words_per_s)]
        ]
        self.rules.limits.check_segments(segments)
        return segments

    def prepared(self, segments: Sequence[Segment], states: VoiceStates) -> list[Segment]:
        """Give the segments their voice and have the engine prepare them, off the event loop; raises TooLarge."""

        def spoken(utterance: Utterance) -> Utterance:
            return self.engine.prepare(replace(utterance, voice=states.voice, emotion_voice=states.emotion))

        return [replace(each, utterance=spoken(each.utterance)) for each in segments]

    async def clips(self, request: SpeechRequest) -> Clips:
        """Find the voice of a request and the clip of its emotion; raises what ``resolve`` does."""
        emotion = request.emotion.clip if request.emotion else None
        voice = await self.resolve(request.voice, request.client)
        with about_the_clip():
            return Clips(voice=voice, emotion=await self.resolve(emotion, request.client) if emotion else None)

    async def states(self, clips: Clips, client: str = "") -> VoiceStates:
        """Return both encoded; raises what ``encoded`` does."""
        voice = await self.encoded(clips.voice, client)
        with about_the_clip():
            return VoiceStates(voice=voice, emotion=await self.encoded(clips.emotion, client))

    def count_cancelled(self) -> None:
        """Count a listener who has left before there was a pipeline, which counts itself."""
        self._counts.cancelled_early()

    def _count(self, stats: SpeechStats) -> None:
        self._counts.count(stats)
        log.info("%s %s", stats.outcome, stats)

    async def resolve(self, ref: VoiceRef, client: str = "") -> Resolved:
        """Return the voice that a request wants, the engine's own ones first; None = no reference.

        One that is not here is fetched, which may take seconds, so not while a slot is held. Raises VoiceNotFound,
        BadRequest, TooLarge; VoiceUnavailable, and Overloaded where too many voices wait to be fetched for ``client``.
        """
        if ref.name is not None and (own := self.engine.own_voice(ref.name)) is not None:
            return own
        if not self.engine.info.clones and ref == VoiceRef():
            return None  # the library's default voice is a clip; the engine has one of its own
        try:
            return await self.run(self.voices.resolve, ref)
        except VoiceNotFound:
            elsewhere = self.voices.fetchable(ref)
            if self._remote is None or not await self._remote.fetch(elsewhere, client):
                raise
        return await self.run(self.voices.resolve, ref)

    async def encoded(self, voice: Resolved, client: str = "") -> VoiceState | None:
        """Return the encoded reference of a voice, from the cache or the engine; None = no reference.

        A new voice is read for ``client``; raises Overloaded where too many wait to be read.
        """
        if not isinstance(voice, Voice | ClipVoice):
            return voice
        return await self._cache.get(voice, self.engine.encode_voice, client, engine=self.engine.info.name)

    async def voice_state(self, ref: VoiceRef, client: str = "") -> VoiceState | None:
        """Resolve a voice and return its encoded reference."""
        return await self.encoded(await self.resolve(ref, client), client)

    def options(self, request: SpeechRequest) -> dict[str, object]:
        """Return the values of the engine's own options, the request's before the preset's.

        Raises BadRequest for one that the engine does not have or take, and for an emotion of that kind.
        """
        check_emotion(self.engine.info, request.emotion)
        preset = self.presets.get(request.preset).options
        given = check_options(self.engine.info, request.options, request.engine_options, self.rules.engine_options)
        return {**preset, **given}

    def plan(self, request: SpeechRequest, *, secondary: bool = False) -> BlockPlan:
        """Return the block plan of the request's first or, ``secondary``, of its later chunks; raises BadRequest."""
        return self.presets.plan(
            request.options,
            preset=request.preset,
            streaming=request.streaming,
            secondary=secondary and not self.rules.secondary_streaming,
        )

    async def run(self, function: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
        """Run a function in one of the worker threads."""
        return await asyncio.get_running_loop().run_in_executor(self.workers, function, *arguments)
