"""The cache of encoded voices: right at the next request, one encoding per content, within its bytes."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from echo.decoding.pool import DecoderPool
from echo.errors import BadRequest, EngineFailed, VoiceNotFound
from echo.types import Audio, VoiceState
from echo.voices import ClipVoice, VoiceCache, VoiceLibrary
from echo.voices.cache import Encode
from echo.voices.content import DigestMemo
from echo.voices.turns import TurnRules, Turns
from tests.unit.decoding.test_pool import halt, has_work
from tests.unit.voices.voice_files import level, level_of, replace_file


@dataclass(frozen=True)
class State:
    """An encoded voice that remembers which `level` it was made of."""

    value: int
    nbytes: int = 100


@dataclass
class Encoder:
    """Counts its calls; ``before`` runs inside each, in the worker thread."""

    before: Callable[[], None] = lambda: None
    nbytes: int = 100
    values: list[int] = field(default_factory=list)

    def __call__(self, clip: Audio) -> Future[VoiceState]:
        return in_a_thread(self._encode, clip)

    def _encode(self, clip: Audio) -> State:
        self.before()
        self.values.append(level_of(clip))
        return State(level_of(clip), self.nbytes)


def in_a_thread(work: Callable[[Audio], State], clip: Audio) -> Future[VoiceState]:
    """What an engine does: the future is pending until the work has ended, so that it can be cancelled until then."""
    done: Future[VoiceState] = Future()

    def run() -> None:
        try:
            result = work(clip)
        except Exception as error:
            if done.set_running_or_notify_cancel():
                done.set_exception(error)
        else:
            if done.set_running_or_notify_cancel():
                done.set_result(result)

    threading.Thread(target=run, daemon=True).start()
    return done


class Gate:
    """Holds encoders back until it is opened."""

    def __init__(self) -> None:
        self._open = threading.Event()

    def open(self) -> None:
        self._open.set()

    def wait(self) -> None:
        assert self._open.wait(60)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - the conditions are counters, which signal nothing
            await asyncio.sleep(0.001)


class Voices:
    """A folder of voices and a cache for them."""

    def __init__(self, folder: Path, *, max_bytes: int = 10_000, settle_s: float = 2.0) -> None:
        self.folder = folder
        self.library = VoiceLibrary([folder])
        self.cache = VoiceCache(max_bytes, settle_s=settle_s)
        self.encoder = Encoder()

    def put(self, name: str, value: int) -> Path:
        path = self.folder / f"{name}.wav"
        replace_file(path, level(value))
        return path

    async def get(self, name: str, encode: Encode | None = None) -> int:
        state = await self.cache.get(self.library.find(name), encode or self.encoder)
        assert isinstance(state, State)
        return state.value


@pytest.fixture
def voices(tmp_path: Path) -> Voices:
    return Voices(tmp_path)


async def test_a_voice_is_encoded_once(voices: Voices) -> None:
    voices.put("a", 1000)
    assert [await voices.get("a") for _ in range(3)] == [1000] * 3
    assert voices.encoder.values == [1000]
    stats = voices.cache.stats()
    assert (stats.entries, stats.bytes, stats.hits, stats.misses) == (1, 100, 2, 1)


async def test_a_hot_voice_is_not_read_again(tmp_path: Path) -> None:
    voices = Voices(tmp_path, settle_s=0)
    voices.put("a", 1000)
    for _ in range(5):
        await voices.get("a")
    assert (voices.cache.stats().files_read, voices.cache.stats().paths) == (1, 1)


async def test_equal_content_is_shared_whatever_its_name(voices: Voices) -> None:
    voices.put("a", 1000)
    voices.put("b", 1000)
    assert [await voices.get("a"), await voices.get("b")] == [1000, 1000]
    assert await voices.cache.get(ClipVoice(level(1000)), voices.encoder) == State(1000)
    assert voices.encoder.values == [1000]


@pytest.mark.parametrize("settle_s", [0.0, 2.0])
async def test_a_replaced_renamed_or_deleted_file_is_right_at_the_next_request(tmp_path: Path, settle_s: float) -> None:
    voices = Voices(tmp_path, settle_s=settle_s)
    a = voices.put("a", 1000)
    assert await voices.get("a") == 1000
    voices.put("a", 2000)
    assert await voices.get("a") == 2000
    b = voices.put("b", 3000)
    os.replace(b, a)
    assert await voices.get("a") == 3000
    with pytest.raises(VoiceNotFound):
        await voices.get("b")
    a.rename(tmp_path / "c.wav")
    assert await voices.get("c") == 3000
    (tmp_path / "c.wav").unlink()
    with pytest.raises(VoiceNotFound):
        await voices.get("c")
    voices.put("c", 1000)
    assert await voices.get("c") == 1000


async def test_overwriting_in_place_within_one_clock_tick_is_seen(voices: Voices) -> None:
    path = voices.put("a", 1)
    for value in range(1, 60):
        path.write_bytes(level(value * 100))  # same size, same inode, and often the same time stamps
        assert await voices.get("a") == value * 100


async def test_setting_the_modification_time_back_hides_nothing(tmp_path: Path) -> None:
    voices = Voices(tmp_path, settle_s=0)
    path = voices.put("a", 1000)
    status = path.stat()
    assert await voices.get("a") == 1000
    replace_file(path, level(2000))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert await voices.get("a") == 2000


def test_a_hash_is_remembered_only_once_its_file_has_settled(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(level(1000))
    voice = VoiceLibrary([tmp_path]).find("a")
    for settle_s, reads in ((0.0, 1), (3600.0, 3)):
        memo = DigestMemo(settle_s=settle_s)
        assert memo.peek(voice) is None
        assert len({memo.key(voice) for _ in range(3)}) == 1
        assert memo.reads == reads
    os.utime(tmp_path / "a.wav", (time.time() + 10, time.time() + 10))
    memo = DigestMemo(settle_s=0)
    memo.key(voice)
    assert memo.peek(voice) is None  # a time stamp in the future vouches for nothing


async def test_a_folder_voice_follows_its_files(tmp_path: Path) -> None:
    voices = Voices(tmp_path, settle_s=0)
    (tmp_path / "v").mkdir()
    (tmp_path / "v/a.wav").write_bytes(level(1000))
    assert await voices.get("v") == 1000
    (tmp_path / "v/b.wav").write_bytes(level(1000))
    await voices.get("v")
    (tmp_path / "v/a.wav").unlink()
    await voices.get("v")
    assert voices.encoder.values[0] == voices.encoder.values[2] == 1000
    assert voices.encoder.values[1] == 0  # the middle of two clips is the silence between them
    (tmp_path / "v/b.wav").unlink()
    with pytest.raises(VoiceNotFound):
        await voices.get("v")


async def test_the_old_state_of_a_changed_voice_is_dropped(voices: Voices) -> None:
    voices.put("a", 1000)
    await voices.get("a")
    voices.put("a", 2000)
    await voices.get("a")
    assert voices.cache.stats().entries == 1


async def test_a_state_that_another_voice_shares_stays(voices: Voices) -> None:
    for name in "ab":
        voices.put(name, 1000)
        await voices.get(name)
    voices.put("a", 2000)
    await voices.get("a")
    assert await voices.get("b") == 1000
    assert voices.encoder.values == [1000, 2000]
    voices.cache.forget("b")
    voices.cache.forget("nobody")
    assert voices.cache.stats().entries == 1


async def test_the_least_recently_used_leave_when_bytes_run_out(tmp_path: Path) -> None:
    voices = Voices(tmp_path, max_bytes=300)
    for value, name in enumerate("abc", start=1):
        voices.put(name, value * 1000)
        await voices.get(name)
    await voices.get("a")
    voices.put("d", 4000)
    await voices.get("d")  # takes the place of b
    stats = voices.cache.stats()
    assert (stats.entries, stats.bytes, stats.evictions) == (3, 300, 1)
    voices.encoder.values.clear()
    for name in "acd":
        await voices.get(name)
    assert voices.encoder.values == []
    await voices.get("b")
    assert voices.encoder.values == [2000]


async def test_one_large_state_may_push_out_several(tmp_path: Path) -> None:
    voices = Voices(tmp_path, max_bytes=300)
    for value, name in enumerate("abc", start=1):
        voices.put(name, value * 1000)
        await voices.get(name)
    voices.put("d", 4000)
    assert await voices.get("d", Encoder(nbytes=250)) == 4000
    assert (voices.cache.stats().entries, voices.cache.stats().bytes) == (1, 250)


async def test_a_state_larger_than_the_budget_is_returned_but_not_kept(voices: Voices) -> None:
    voices.put("a", 1000)
    voices.put("b", 2000)
    await voices.get("b")
    big = Encoder(nbytes=10_001)
    assert [await voices.get("a", big) for _ in range(2)] == [1000, 1000]
    assert big.values == [1000, 1000]
    assert (voices.cache.stats().entries, voices.cache.stats().bytes) == (1, 100)


@pytest.mark.slow
async def test_500_voices_in_turn_stay_within_the_budget(tmp_path: Path) -> None:
    voices = Voices(tmp_path, max_bytes=1000)
    for value in range(1, 501):
        assert await voices.cache.get(ClipVoice(level(value * 50)), voices.encoder) == State(value * 50)
        assert voices.cache.stats().bytes <= 1000
    assert voices.cache.stats().entries == 10


async def test_requests_for_one_content_share_one_encoding(voices: Voices) -> None:
    voices.put("a", 1000)
    voices.put("b", 1000)
    gate = Gate()
    encoder = Encoder(before=gate.wait)
    waiting = [asyncio.create_task(voices.get(name, encoder)) for name in "ab" * 10]
    await until(lambda: voices.cache.stats().misses == 20)
    gate.open()
    assert await asyncio.gather(*waiting) == [1000] * 20
    assert encoder.values == [1000]


async def test_other_voices_are_served_while_one_is_encoded(voices: Voices) -> None:
    voices.put("a", 1000)
    voices.put("b", 2000)
    await voices.get("b")
    gate = Gate()
    slow = asyncio.create_task(voices.get("a", Encoder(before=gate.wait)))
    await until(lambda: voices.cache.stats().misses == 2)
    assert await voices.get("b") == 2000
    assert not slow.done()
    gate.open()
    assert await slow == 1000


async def test_a_failure_reaches_all_who_wait_and_is_not_kept(voices: Voices) -> None:
    voices.put("a", 1000)
    gate = Gate()
    calls: list[int] = []

    def fail(clip: Audio) -> State:
        calls.append(1)
        gate.wait()
        raise EngineFailed("Generation failed.")

    waiting = [asyncio.create_task(voices.get("a", partial(in_a_thread, fail))) for _ in range(5)]
    await until(lambda: voices.cache.stats().misses == 5)
    gate.open()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [EngineFailed] * 5
    assert calls == [1]
    assert await voices.get("a") == 1000


async def test_an_unusable_file_fails_until_it_is_replaced(voices: Voices) -> None:
    replace_file(voices.folder / "a.wav", b"junk" * 1000)
    results = await asyncio.gather(*(voices.get("a") for _ in range(4)), return_exceptions=True)
    assert [type(result) for result in results] == [BadRequest] * 4
    voices.put("a", 1000)
    assert await voices.get("a") == 1000


async def test_the_encoding_goes_on_for_the_others_when_its_first_requester_leaves(voices: Voices) -> None:
    voices.put("a", 1000)
    gate = Gate()
    encoder = Encoder(before=gate.wait)
    first, second = (asyncio.create_task(voices.get("a", encoder)) for _ in range(2))
    await until(lambda: voices.cache.stats().misses == 2)
    first.cancel()
    gate.open()
    assert await second == 1000
    assert encoder.values == [1000]
    assert first.cancelled()


async def test_a_failure_that_nobody_waits_for_any_more_is_silent(voices: Voices) -> None:
    voices.put("a", 1000)
    gate, begun, failed = Gate(), threading.Event(), threading.Event()

    def fail(clip: Audio) -> State:
        begun.set()
        gate.wait()
        failed.set()
        raise EngineFailed("Generation failed.")

    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    task = asyncio.create_task(voices.get("a", partial(in_a_thread, fail)))
    await until(begun.is_set)
    task.cancel()
    gate.open()
    await until(failed.is_set)
    gc.collect()
    with pytest.raises(asyncio.CancelledError):
        await task
    gc.collect()
    assert complaints == []
    assert await voices.get("a") == 1000


class Interrupted(ThreadPoolExecutor):
    """Does something on the event loop just before its n-th job."""

    def __init__(self, job: int, act: Callable[[], object]) -> None:
        super().__init__(4)
        self._left = job
        self._act = act

    def submit(self, fn, /, *args, **kwargs):  # type: ignore[no-untyped-def]
        self._left -= 1
        if self._left == 0:
            self._act()
        return super().submit(fn, *args, **kwargs)


@pytest.mark.parametrize("requests", [1, 5])
async def test_a_file_replaced_between_hashing_and_reading_gives_its_new_content(tmp_path: Path, requests: int) -> None:
    path = tmp_path / "a.wav"
    replace_file(path, level(1000))
    voice = VoiceLibrary([tmp_path]).find("a")
    encoder = Encoder()
    # Each request first hashes the file in a job of its own; the next job reads it for all of them.
    with Interrupted(requests + 1, lambda: replace_file(path, level(2000))) as executor:
        cache = VoiceCache(10_000, executor=executor)
        assert await asyncio.gather(*(cache.get(voice, encoder) for _ in range(requests))) == [State(2000)] * requests
        assert encoder.values == [2000]
        replace_file(path, level(1000))
        assert await cache.get(voice, encoder) == State(1000)


async def test_who_joins_an_encoding_never_gets_content_from_before_his_request(tmp_path: Path) -> None:
    """1000 is hashed, 2000 is read, and 1000 is back before the second request: that one must get 1000."""
    path = tmp_path / "a.wav"
    replace_file(path, level(1000))
    voice = VoiceLibrary([tmp_path]).find("a")
    gate, has_read = Gate(), threading.Event()

    class Holding(Interrupted):
        """Keeps the result of its second job, the reading, until the gate opens."""

        def submit(self, fn, /, *args, **kwargs):  # type: ignore[no-untyped-def]
            def hold(*args: object) -> object:
                result = fn(*args)
                has_read.set()
                gate.wait()
                return result

            return super().submit(hold if self._left == 1 else fn, *args, **kwargs)  # type: ignore[no-untyped-call]

    with Holding(2, lambda: replace_file(path, level(2000))) as executor:
        cache = VoiceCache(10_000, executor=executor)
        first = asyncio.create_task(cache.get(voice, Encoder()))
        await until(has_read.is_set)
        replace_file(path, level(1000))
        second = asyncio.create_task(cache.get(voice, Encoder()))
        await until(lambda: cache.stats().misses == 2)
        gate.open()
        assert (await first, await second) == (State(2000), State(1000))


@pytest.mark.parametrize("requests", [1, 5])
async def test_a_file_deleted_between_hashing_and_reading_is_an_unknown_voice(tmp_path: Path, requests: int) -> None:
    path = tmp_path / "a.wav"
    replace_file(path, level(1000))
    voice = VoiceLibrary([tmp_path]).find("a")
    with Interrupted(requests + 1, path.unlink) as executor:
        cache = VoiceCache(10_000, executor=executor)
        results = await asyncio.gather(*(cache.get(voice, Encoder()) for _ in range(requests)), return_exceptions=True)
    assert [type(result) for result in results] == [VoiceNotFound] * requests


async def test_closing_stops_what_is_under_way_and_empties_the_cache(voices: Voices) -> None:
    voices.put("a", 1000)
    voices.put("b", 2000)
    await voices.get("a")
    gate, encoding = Gate(), threading.Event()

    def encode(clip: Audio) -> State:
        encoding.set()
        gate.wait()
        return State(0)

    waiting = asyncio.create_task(voices.get("b", partial(in_a_thread, encode)))
    await until(encoding.is_set)
    await voices.cache.close()
    gate.open()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (voices.cache.stats().entries, voices.cache.stats().bytes) == (0, 0)


def level_of_file(path: Path) -> int:
    return int.from_bytes(path.read_bytes()[-2:], "little")


class History:
    """Which content a file had when, with generous bounds: from before it was put there until after it was gone."""

    def __init__(self) -> None:
        self._spans: list[tuple[int | None, float, float]] = [(None, 0.0, float("inf"))]
        self._lock = threading.Lock()

    def change(self, value: int | None, act: Callable[[], object]) -> None:
        """Do ``act``, which makes ``value`` the content (None = no file)."""
        with self._lock:
            started = time.monotonic()
            self._spans.append((value, started, float("inf")))
        act()
        with self._lock:
            old, begin, _ = self._spans[-2]
            self._spans[-2] = (old, begin, time.monotonic())

    def held(self, begin: float, end: float) -> set[int | None]:
        """Return every content the file may have had at some moment from ``begin`` to ``end``."""
        with self._lock:
            return {value for value, since, until in self._spans if since <= end and until >= begin}


class Writer(threading.Thread):
    """Replaces, deletes and renames the voices ``a`` and ``b`` as fast as it can, and notes when."""

    TURNS = 240

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._paths = {name: folder / f"{name}.wav" for name in "ab"}
        self.histories = {name: History() for name in "ab"}
        self.done = threading.Event()

    def run(self) -> None:
        try:
            for turn in range(self.TURNS):
                self._change("ab"[turn % 2], turn)
                time.sleep(0.001)
            self._put("a", 7700)
            self._put("b", 8800)
        finally:
            self.done.set()

    def _change(self, name: str, turn: int) -> None:
        if turn % 12 in (4, 7):
            self.histories[name].change(None, self._paths[name].unlink)
        elif turn % 12 == 10:
            # Both change at one moment: the span of either begins before it and ends after it.
            moved = level_of_file(self._paths["b"])
            self.histories["b"].change(None, lambda: self.histories["a"].change(moved, self._rename))
        else:
            self._put(name, (turn % 40 + 1) * 100)

    def _put(self, name: str, value: int) -> None:
        self.histories[name].change(value, lambda: replace_file(self._paths[name], level(value)))

    def _rename(self) -> None:
        os.replace(self._paths["b"], self._paths["a"])


@pytest.mark.parametrize("settle_s", [0.02, 2.0])
@pytest.mark.slow
async def test_replacing_under_load_every_answer_was_true_during_its_call(tmp_path: Path, settle_s: float) -> None:
    voices = Voices(tmp_path, max_bytes=450, settle_s=settle_s)
    writer = Writer(tmp_path)
    answers: set[int | None] = set()
    wrong: list[str] = []

    async def read(name: str) -> None:
        while not writer.done.is_set() and not wrong:
            begin = time.monotonic()
            answer: int | None
            try:
                answer = await voices.get(name)
            except VoiceNotFound:
                answer = None
            held = writer.histories[name].held(begin, time.monotonic())
            answers.add(answer)
            if answer not in held:
                wrong.append(f"{name}: {answer} while {held}")
            await asyncio.sleep(0.0005)  # lets the writer have the interpreter

    writer.start()
    await asyncio.gather(*(read(name) for name in "ab" * 4))
    writer.join()
    assert wrong == []
    assert len(answers) > 5, "the readers saw the changes"
    assert (await voices.get("a"), await voices.get("b")) == (7700, 8800)
    assert voices.cache.stats().bytes <= 450


# Who owns an encoding


class Pending:
    """An engine whose encodings end when the test says so."""

    def __init__(self) -> None:
        self.futures: list[Future[VoiceState]] = []

    def __call__(self, clip: Audio) -> Future[VoiceState]:
        self.futures.append(Future())
        return self.futures[-1]


async def test_the_encoding_ends_with_the_last_who_waits_for_it(voices: Voices) -> None:
    voices.put("a", 1000)
    engine = Pending()
    first, second = (asyncio.create_task(voices.get("a", engine)) for _ in range(2))
    await until(lambda: bool(engine.futures) and voices.cache.stats().misses == 2)
    first.cancel()
    await asyncio.sleep(0.01)
    assert not engine.futures[0].cancelled()
    second.cancel()
    await until(engine.futures[0].cancelled)
    assert len(engine.futures) == 1


async def test_who_comes_after_the_last_has_left_gets_an_encoding_of_his_own(voices: Voices) -> None:
    voices.put("a", 1000)
    engine = Pending()
    first = asyncio.create_task(voices.get("a", engine))
    await until(lambda: bool(engine.futures))
    first.cancel()
    assert await voices.get("a") == 1000
    await until(engine.futures[0].cancelled)


@pytest.mark.slow
async def test_a_clip_that_nobody_waits_for_any_more_is_not_decoded_to_the_end(tmp_path: Path) -> None:
    pool = DecoderPool(1)
    outcomes: list[str] = []
    cache = VoiceCache(10_000, decoders=pool, observe=lambda outcome, seconds: outcomes.append(outcome))
    try:
        await cache.get(ClipVoice(level(1000)), Encoder())
        (child,) = pool.pids
        halt(child)
        waiting = asyncio.create_task(cache.get(ClipVoice(level(1500)), Encoder()))
        await until(lambda: has_work(child))
        waiting.cancel()
        await until(lambda: child not in pool.pids)
        assert await cache.get(ClipVoice(level(2000)), Encoder()) == State(2000)
        assert outcomes == ["done", "cancelled", "done"]
    finally:
        await asyncio.to_thread(pool.close)


async def test_new_voices_wait_for_their_turn_and_those_who_leave_give_theirs_up() -> None:
    turns = Turns(TurnRules(running=1, waiting=4, waiting_bytes=10**6))
    outcomes: Counter[str] = Counter()
    cache = VoiceCache(10_000, turns=turns, observe=lambda outcome, seconds: outcomes.update([outcome]))
    engine = Pending()
    clips = [ClipVoice(level(value)) for value in range(100, 600, 100)]
    tasks = [asyncio.create_task(cache.get(clip, engine, "greedy")) for clip in clips[:4]]
    await until(lambda: bool(engine.futures) and turns.waiting == 2)
    await until(lambda: sum(task.done() for task in tasks) == 1)  # half of the places are for others
    assert turns.waiting_bytes == 2 * len(clips[0].audio)
    other = asyncio.create_task(cache.get(clips[4], engine, "other"))
    await until(lambda: turns.waiting == 3)
    for task in tasks:
        task.cancel()
    await until(lambda: len(engine.futures) == 2)
    assert (turns.running, turns.waiting, turns.waiting_bytes) == (1, 0, 0)
    engine.futures[1].set_result(State(500))
    assert await other == State(500)
    assert engine.futures[0].cancelled()
    await until(lambda: outcomes == {"done": 1, "cancelled": 3, "refused": 1})
    assert turns.running == 0


async def test_a_failure_is_counted_and_a_replaced_file_is_not_taken_for_one(tmp_path: Path) -> None:
    outcomes: list[str] = []
    cache = VoiceCache(10_000, observe=lambda outcome, seconds: outcomes.append(outcome))
    with pytest.raises(BadRequest):
        await cache.get(ClipVoice(b"RIFF0000WAVE" + bytes(2000)), Encoder())
    assert outcomes == ["failed"]
