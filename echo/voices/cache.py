"""Encoded voices, kept by content within a budget of bytes: encoding a reference takes longer than a first block."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import TypeVar

from echo.decoding.clip import decode
from echo.decoding.pool import DecoderPool
from echo.decoding.stop import Stop
from echo.errors import BadRequest, Overloaded, VoiceNotFound
from echo.types import Audio, VoiceState
from echo.voices.content import SETTLE_S, DigestMemo, content_key, digest_of
from echo.voices.reference import LoadedVoice, load_voice
from echo.voices.turns import Turns
from echo.voices.voice import ClipVoice, Voice

_T = TypeVar("_T")

Encode = Callable[[Audio], Future[VoiceState]]
"""Has reference audio encoded; cancelling the future ends the work (an engine's ``encode_voice``)."""

Observe = Callable[[str, float], None]
"""Called when the reading of a new voice has ended: with the outcome, and the seconds since its request.

``done``, ``failed``, ``cancelled``, ``refused`` or ``replaced`` (the file was, meanwhile; the new one is read next).
"""


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


_Owner = tuple[str, str]
"""An engine's name, and the id of a voice of the library."""


@dataclass(slots=True)
class _Entry:
    state: VoiceState
    nbytes: int
    #: The library's voices that have this content, as far as known.
    voices: set[_Owner] = field(default_factory=set)


_Wanted = tuple[str, Voice | ClipVoice]
"""Whose state is asked for: an engine's name, and a voice."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    """Result of an encoding: the state, or the newer content that the voice's files had by the time they were read."""

    state: VoiceState | None = None
    newer: LoadedVoice | None = None


@dataclass(slots=True)
class _Encoding:
    """A voice that is being read and encoded; cancelled when the last of the requests that wait for it leaves."""

    task: asyncio.Task[_Outcome]
    waiters: int = 0


class VoiceCache:
    """Byte-budgeted LRU of encoded voices, for all engines together; belongs to one event loop.

    Keyed by engine and the hash of the audio files' bytes, so that a replaced file is never answered with its old state
    and equal files share one. A hot look-up costs one `stat` per file. Requests for the same content share one
    encoding, which goes on when its first requester leaves and ends with the last. A new voice waits for a turn of
    ``turns`` and is decoded in ``decoders``; without those in this process, which is for files that one trusts.
    Failures are not kept.
    """

    def __init__(
        self,
        max_bytes: int,
        *,
        decoders: DecoderPool | None = None,
        turns: Turns | None = None,
        observe: Observe | None = None,
        executor: Executor | None = None,
        settle_s: float = SETTLE_S,
    ) -> None:
        self.max_bytes = max_bytes
        self._decoders = decoders
        self._turns = turns or Turns()
        self._observe = observe
        self._executor = executor
        self._digests = DigestMemo(settle_s=settle_s)
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._keys: dict[_Owner, str] = {}
        self._encodings: dict[str, _Encoding] = {}
        self._bytes = self._hits = self._misses = self._evictions = 0

    async def get(self, voice: Voice | ClipVoice, encode: Encode, client: str = "", *, engine: str = "") -> VoiceState:
        """Return the state of the voice's present content, encoding it if it is not there.

        ``encode`` is that of the engine of this name. It is called with the joined clips, mono, 44.1 kHz, and must not
        block. What its future raises is passed on, as are BadRequest for unusable audio, VoiceNotFound for a voice
        whose files have gone, and Overloaded where too many new voices wait. A new voice is read for ``client``.
        """
        key = await self._key(engine, voice)
        entry = self._entries.get(key)
        if entry is not None:
            self._hits += 1
            return self._use(key, entry, (engine, voice))
        self._misses += 1
        loaded: LoadedVoice | None = None
        while True:
            encoding = self._encodings.get(key)
            first = encoding is None
            if encoding is None:
                encoding = self._start(key, (engine, voice), encode, loaded, client)
            try:
                outcome = await self._wait(key, encoding)
            except (VoiceNotFound, BadRequest):
                # This concerns the voice that was read, at that time, and no other voice with the same hash.
                if first:
                    raise
                outcome = _Outcome()
            if outcome.state is not None:
                return outcome.state
            # The file was replaced between hashing and reading. What was read is the newer content; requests that only
            # waited look the voice up again.
            loaded = outcome.newer if first else None
            key = _key_of(engine, loaded.key) if loaded else await self._key(engine, voice)
            entry = self._entries.get(key)
            if entry is not None:
                return self._use(key, entry, (engine, voice))

    def forget(self, voice_id: str) -> None:
        """Drop the states of a voice that has been deleted, unless another voice has the same content."""
        for owner in [owner for owner in self._keys if owner[1] == voice_id]:
            self._disown(owner)

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
        tasks = [encoding.task for encoding in self._encodings.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._entries.clear()
        self._keys.clear()
        self._bytes = 0

    async def _key(self, engine: str, voice: Voice | ClipVoice) -> str:
        if isinstance(voice, ClipVoice):
            return _key_of(engine, await self._run(lambda: content_key([digest_of(voice.audio)])))
        key = self._digests.peek(voice)
        return _key_of(engine, key if key is not None else await self._run(lambda: self._digests.key(voice)))

    def _start(self, key: str, wanted: _Wanted, encode: Encode, loaded: LoadedVoice | None, client: str) -> _Encoding:
        encoding = _Encoding(asyncio.create_task(self._encode(key, wanted, encode, loaded, client)))
        self._encodings[key] = encoding
        encoding.task.add_done_callback(lambda done: self._finish(key, encoding))
        return encoding

    async def _wait(self, key: str, encoding: _Encoding) -> _Outcome:
        """Wait for an encoding; the last waiter that leaves cancels it."""
        encoding.waiters += 1
        try:
            return await asyncio.shield(encoding.task)
        finally:
            encoding.waiters -= 1
            if not encoding.waiters and not encoding.task.done():
                encoding.task.cancel()
                self._remove(key, encoding)  # the next request starts anew

    async def _encode(
        self, key: str, wanted: _Wanted, encode: Encode, loaded: LoadedVoice | None, client: str
    ) -> _Outcome:
        engine, voice = wanted
        started, ended = time.monotonic(), "failed"
        held = len(voice.audio) if isinstance(voice, ClipVoice) else 0
        try:
            async with self._turns.take(client, held):
                loaded = loaded or await self._load(voice)
                if _key_of(engine, loaded.key) != key:
                    ended = "replaced"
                    return _Outcome(newer=loaded)
                # Cancelling this task cancels the engine's future, and with it the work.
                state = await asyncio.wrap_future(encode(loaded.audio))
            ended = "done"
        except Overloaded:
            ended = "refused"
            raise
        except asyncio.CancelledError:
            ended = "cancelled"
            raise
        finally:
            if self._observe is not None:
                self._observe(ended, time.monotonic() - started)
        self._keep(key, state, wanted)
        return _Outcome(state=state)

    async def _load(self, voice: Voice | ClipVoice) -> LoadedVoice:
        """Read and decode in the executor; what is being decoded ends when this is cancelled."""
        stop = Stop()

        def decode_in_child(data: bytes, demuxer: str, max_seconds: float) -> Audio:
            assert self._decoders is not None
            return self._decoders.decode(data, demuxer, max_seconds, stop)

        try:
            return await self._run(lambda: load_voice(voice, decode_in_child if self._decoders else decode))
        finally:
            stop.set()

    def _finish(self, key: str, encoding: _Encoding) -> None:
        self._remove(key, encoding)
        if not encoding.task.cancelled():
            encoding.task.exception()  # retrieved, since every waiter may have left

    def _remove(self, key: str, encoding: _Encoding) -> None:
        if self._encodings.get(key) is encoding:
            del self._encodings[key]

    async def _run(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def _use(self, key: str, entry: _Entry, wanted: _Wanted) -> VoiceState:
        self._entries.move_to_end(key)
        self._own(key, entry, wanted)
        return entry.state

    def _keep(self, key: str, state: VoiceState, wanted: _Wanted) -> None:
        nbytes = state.nbytes
        if nbytes > self.max_bytes:
            engine, voice = wanted
            if isinstance(voice, Voice):
                self._disown((engine, voice.id))
            return
        entry = _Entry(state, nbytes)
        self._entries[key] = entry
        self._bytes += nbytes
        self._own(key, entry, wanted)
        while self._bytes > self.max_bytes:
            self._evictions += 1
            self._drop(next(iter(self._entries)))

    def _own(self, key: str, entry: _Entry, wanted: _Wanted) -> None:
        """Note that a voice has this content now, and drop what it had before if nobody else has it."""
        engine, voice = wanted
        if isinstance(voice, ClipVoice) or self._keys.get((engine, voice.id)) == key:
            return
        self._disown((engine, voice.id))
        self._keys[engine, voice.id] = key
        entry.voices.add((engine, voice.id))

    def _disown(self, owner: _Owner) -> None:
        """Drop the state of a voice, unless another one has the same content."""
        key = self._keys.pop(owner, None)
        entry = self._entries.get(key) if key is not None else None
        if key is not None and entry is not None:
            entry.voices.discard(owner)
            if not entry.voices:
                self._drop(key)

    def _drop(self, key: str) -> None:
        entry = self._entries.pop(key)
        self._bytes -= entry.nbytes
        for owner in entry.voices:
            del self._keys[owner]


def _key_of(engine: str, content: str) -> str:
    return f"{engine}/{content}"
