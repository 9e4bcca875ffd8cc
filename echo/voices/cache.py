"""Encoded voices, kept by content within a budget of bytes: encoding a reference takes longer than a first block."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TypeVar

from echo.errors import BadRequest, VoiceNotFound
from echo.types import Audio, VoiceState
from echo.voices.content import SETTLE_S, DigestMemo, content_key, digest_of
from echo.voices.reference import LoadedVoice, load_voice
from echo.voices.voice import ClipVoice, Voice

_T = TypeVar("_T")

Encode = Callable[[Audio], VoiceState]
"""Encodes reference audio; blocks (an engine's ``encode_voice``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStats:
    """What the cache holds and has done; ``bytes`` is host plus device memory of the states."""

    entries: int
    bytes: int
    max_bytes: int
    paths: int
    hits: int
    misses: int
    evictions: int
    files_read: int


@dataclass(slots=True)
class _Entry:
    state: VoiceState
    nbytes: int
    #: Ids of the library's voices that have this content, as far as known.
    voices: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Landing:
    """How a flight ended: with the state, or with what its voice had become by the time it was read."""

    state: VoiceState | None = None
    moved: LoadedVoice | None = None


class VoiceCache:
    """Byte-budgeted LRU of encoded voices for one engine; belongs to one event loop.

    Keyed by the hash of the audio files' bytes, so that a replaced file is never answered with its old state and equal
    files share one. A hot look-up costs one `stat` per file. Requests for the same content share one encoding, which
    goes on when its first requester leaves. Failures are not kept.
    """

    def __init__(self, max_bytes: int, *, executor: Executor | None = None, settle_s: float = SETTLE_S) -> None:
        self.max_bytes = max_bytes
        self._executor = executor
        self._digests = DigestMemo(settle_s=settle_s)
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._keys: dict[str, str] = {}
        self._flights: dict[str, asyncio.Task[_Landing]] = {}
        self._bytes = self._hits = self._misses = self._evictions = 0

    async def get(self, voice: Voice | ClipVoice, encode: Encode) -> VoiceState:
        """Return the state of the voice's present content, encoding it if it is not there.

        ``encode`` is called in the executor with the joined clips: mono, 44.1 kHz. What it raises is passed on, as are
        BadRequest for unusable audio and VoiceNotFound for a voice whose files have gone.
        """
        key = await self._key(voice)
        entry = self._entries.get(key)
        if entry is not None:
            self._hits += 1
            return self._use(key, entry, voice)
        self._misses += 1
        loaded: LoadedVoice | None = None
        while True:
            flight = self._flights.get(key)
            first = flight is None
            if flight is None:
                flight = self._start(key, voice, encode, loaded)
            try:
                landing = await asyncio.shield(flight)
            except (VoiceNotFound, BadRequest):
                # True of the flight's own voice at the time of reading, not of any other with the hash looked for.
                if first:
                    raise
                landing = _Landing()
            if landing.state is not None:
                return landing.state
            # The file was replaced between hashing and reading. What has been read is the newer content; those who
            # merely waited look again for themselves.
            loaded = landing.moved if first else None
            key = loaded.key if loaded else await self._key(voice)
            entry = self._entries.get(key)
            if entry is not None:
                return self._use(key, entry, voice)

    def forget(self, voice_id: str) -> None:
        """Drop the state of a voice that has been deleted, unless another voice has the same content."""
        key = self._keys.pop(voice_id, None)
        entry = self._entries.get(key) if key is not None else None
        if key is not None and entry is not None:
            entry.voices.discard(voice_id)
            if not entry.voices:
                self._drop(key)

    def stats(self) -> CacheStats:
        """Return the present figures."""
        return CacheStats(
            entries=len(self._entries),
            bytes=self._bytes,
            max_bytes=self.max_bytes,
            paths=self._digests.paths,
            hits=self._hits,
            misses=self._misses,
            evictions=self._evictions,
            files_read=self._digests.reads,
        )

    async def close(self) -> None:
        """Stop waiting for encodings and drop all states."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)
        self._entries.clear()
        self._keys.clear()
        self._bytes = 0

    async def _key(self, voice: Voice | ClipVoice) -> str:
        if isinstance(voice, ClipVoice):
            return await self._run(lambda: content_key([digest_of(voice.audio)]))
        key = self._digests.peek(voice)
        return key if key is not None else await self._run(lambda: self._digests.key(voice))

    def _start(
        self, key: str, voice: Voice | ClipVoice, encode: Encode, loaded: LoadedVoice | None
    ) -> asyncio.Task[_Landing]:
        flight = asyncio.create_task(self._fly(key, voice, encode, loaded))
        self._flights[key] = flight
        flight.add_done_callback(lambda done: self._landed(key, done))
        return flight

    async def _fly(self, key: str, voice: Voice | ClipVoice, encode: Encode, loaded: LoadedVoice | None) -> _Landing:
        if loaded is None:
            loaded = await self._run(lambda: load_voice(voice))
            if loaded.key != key:
                return _Landing(moved=loaded)
        audio = loaded.audio
        state = await self._run(lambda: encode(audio))
        self._keep(key, state, voice)
        return _Landing(state=state)

    def _landed(self, key: str, flight: asyncio.Task[_Landing]) -> None:
        del self._flights[key]
        if not flight.cancelled():
            flight.exception()  # marked as seen: those who waited may all have left

    async def _run(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def _use(self, key: str, entry: _Entry, voice: Voice | ClipVoice) -> VoiceState:
        self._entries.move_to_end(key)
        self._own(key, entry, voice)
        return entry.state

    def _keep(self, key: str, state: VoiceState, voice: Voice | ClipVoice) -> None:
        nbytes = state.nbytes
        if nbytes > self.max_bytes:
            if isinstance(voice, Voice):
                self.forget(voice.id)
            return
        entry = _Entry(state, nbytes)
        self._entries[key] = entry
        self._bytes += nbytes
        self._own(key, entry, voice)
        while self._bytes > self.max_bytes:
            self._evictions += 1
            self._drop(next(iter(self._entries)))

    def _own(self, key: str, entry: _Entry, voice: Voice | ClipVoice) -> None:
        """Note that ``voice`` has this content now, and drop what it had before if nobody else has it."""
        if isinstance(voice, ClipVoice) or self._keys.get(voice.id) == key:
            return
        self.forget(voice.id)
        self._keys[voice.id] = key
        entry.voices.add(voice.id)

    def _drop(self, key: str) -> None:
        entry = self._entries.pop(key)
        self._bytes -= entry.nbytes
        for voice_id in entry.voices:
            del self._keys[voice_id]
