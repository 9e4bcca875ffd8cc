"""Jobs: the queue of long texts, spoken one after another, a few pieces at a time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from echo.audio.encode import MEDIA_TYPES
from echo.errors import (
    BadRequest,
    Conflict,
    DeviceStopped,
    EchoError,
    EngineFailed,
    NotFound,
    NotReady,
    Overloaded,
    Preempted,
    VoiceUnavailable,
)
from echo.jobs.book import Chapter
from echo.jobs.record import BookText, JobError, JobRecord, JobSpec, JobStatus, outline
from echo.jobs.remote import ResultBucket, UploadFailed
from echo.jobs.render import render
from echo.jobs.store import SAMPLE_BYTES, JobStore, new_id
from echo.service import SpeechService
from echo.services import Services
from echo.types import Encoding, EngineInfo

log = logging.getLogger(__name__)

T = TypeVar("T")
P = ParamSpec("P")

#: Failures that may pass, and how often a piece is tried before its job fails.
_PASSING = (Preempted, Overloaded, NotReady, EngineFailed, VoiceUnavailable, UploadFailed)
#: Failures that are no try: others had to be let past, or only a new process helps, which finds the job as it was.
_NO_TRY = (Preempted, DeviceStopped)
_TRIES = 6
#: Pause before the next try, in seconds; doubled each time.
_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
#: Seconds between two looks for jobs that are to be removed.
_FORGET_S = 600.0
#: How often an engine without priorities is looked at, whether somebody else wants it.
_LOOK_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRules:
    """Limits. ``parallel``: pieces that are spoken at a time. ``keep_s``: life of a job that has ended."""

    parallel: int = 2
    most: int = 100
    most_of_client: int = 20
    max_chars: int = 5_000_000
    keep_s: float = 30 * 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a job is. ``audio_s`` of each chapter, without its silences; ``done`` counts pieces."""

    done: int
    characters: int
    audio_s: tuple[float, ...]
    chapters_done: tuple[bool, ...]


class Jobs:
    """The queue. All methods are for the event loop; ``start`` and ``close`` once."""

    def __init__(self, store: JobStore, rules: JobRules, bucket: ResultBucket | None = None) -> None:
        self.rules = rules
        self._store = store
        self._bucket = bucket
        self._records = {record.id: record for record in store.records()}
        #: Jobs that are being stored.
        self._arriving: list[JobRecord] = []
        #: One thread, so that a later change of a record never comes before an earlier one; a disk may take its time.
        self._writer = ThreadPoolExecutor(1, "echo-jobs")
        for record in self._records.values():
            if record.status is JobStatus.RUNNING:  # the process ended meanwhile
                record.status = JobStatus.QUEUED
        #: Wall and monotonic clock at the start, and the latter when a job ended here: the wall clock may be set, and
        #: no job becomes older by that.
        self._started = (time.time(), time.monotonic())
        self._ended: dict[str, float] = {}
        self._dismissed = False
        self._changed = asyncio.Event()
        self._running: tuple[str, asyncio.Task[None]] | None = None
        self._task: asyncio.Task[None] | None = None

    # -- what clients do

    async def create(
        self,
        owner: str,
        title: str,
        spec: JobSpec,
        chapters: list[Chapter],
        clip: bytes | None,
        *,
        field: str = "input",
    ) -> JobRecord:
        """Queue a job; ``field`` is what the text came in, for errors.

        Raises BadRequest for a text that is empty or too long, Overloaded for too many jobs, and EchoError where the
        disk does not take it.
        """
        count = sum(chapter.characters for chapter in chapters)
        if not count:
            raise BadRequest(f"{field}: must not be empty.", param=field, code="missing_required_parameter")
        if count > self.rules.max_chars:
            raise BadRequest(
                f"{field}: {count} characters; at most {self.rules.max_chars} are allowed in a job.",
                param=field,
                code="string_above_max_length",
            )
        waiting = [record for record in (*self._records.values(), *self._arriving) if not record.status.is_final]
        if len(waiting) >= self.rules.most:
            raise Overloaded(f"{len(waiting)} jobs are waiting, {self.rules.most} are allowed.", retry_after_s=60)
        own = sum(record.owner == owner for record in waiting)
        if own >= self.rules.most_of_client:
            raise Overloaded(f"You have {own} jobs waiting, {self.rules.most_of_client} are allowed.", retry_after_s=60)
        record = JobRecord(id=new_id(), owner=owner, title=title, spec=spec, outline=outline(chapters))
        self._arriving.append(record)
        try:
            await self._write(self._store.create, record, BookText.of(chapters), clip)
        except OSError as error:
            log.error("a job cannot be stored: %s", error)
            raise _not_stored() from None
        finally:
            self._arriving.remove(record)
        self._records[record.id] = record
        self._notify()
        return record

    def get(self, job: str, owner: str) -> JobRecord:
        """Return a job of this owner; raises NotFound."""
        record = self._records.get(job)
        if record is None or record.owner != owner:
            raise NotFound("There is no such job.", param="id")
        return record

    def list(self, owner: str) -> list[JobRecord]:
        """Return the jobs of this owner, the newest first."""
        return [record for record in reversed(self._records.values()) if record.owner == owner]

    def count(self, status: JobStatus) -> int:
        """How many jobs there are of a status, of all owners."""
        return sum(record.status is status for record in list(self._records.values()))

    async def pause(self, record: JobRecord) -> None:
        """Stop a job where it is; the pieces it has stay. Raises Conflict for one that has ended."""
        self._refuse_final(record, "pause")
        await self._stop(record, JobStatus.PAUSED)

    async def resume(self, record: JobRecord) -> None:
        """Have a job go on that was paused or has failed; raises Conflict for another one."""
        if record.status in (JobStatus.QUEUED, JobStatus.RUNNING):
            return
        if record.status not in (JobStatus.PAUSED, JobStatus.FAILED):
            raise Conflict(f"The job is {record.status}, so it cannot go on.")
        record.error = record.finished_at = None
        record.status = JobStatus.QUEUED
        await self._save_if_possible(record)

    async def cancel(self, record: JobRecord) -> None:
        """End a job for good, and remove its pieces. Raises Conflict for one that has ended."""
        if record.status is JobStatus.CANCELLED:
            return
        self._refuse_final(record, "cancel")
        self._end(record)
        await self._stop(record, JobStatus.CANCELLED)
        self._store.pieces(record.id).remove()

    async def delete(self, record: JobRecord) -> None:
        """Remove a job with all that it has made; raises EchoError, and it stays, where the disk does not allow it."""
        if not record.status.is_final:
            await self._stop(record, JobStatus.CANCELLED)
        try:
            await self._remove(record)
        except OSError as error:
            log.error("the job %s cannot be removed: %s", record.id, error)
            raise _not_stored() from None
        self._notify()

    def progress(self, record: JobRecord) -> Progress:
        """Tell how far a job is."""
        if record.status is JobStatus.COMPLETED:
            count = len(record.outline)
            return Progress(
                done=record.pieces,
                characters=record.characters,
                audio_s=tuple(chapter.audio_s for chapter in record.outline),
                chapters_done=(True,) * count,
            )
        sizes = self._store.pieces(record.id).sizes()
        seconds = SAMPLE_BYTES * record.sample_rate
        chapters = [range(chapter.first, chapter.first + chapter.pieces) for chapter in record.outline]
        there = [sum(number in sizes for number in numbers) for numbers in chapters]
        return Progress(
            done=len(sizes),
            characters=sum(
                chapter.characters * part // chapter.pieces for chapter, part in zip(record.outline, there, strict=True)
            ),
            audio_s=tuple(
                sum(sizes.get(number, 0) for number in numbers) / seconds if seconds else 0.0 for numbers in chapters
            ),
            chapters_done=tuple(chapter_name(record, number) in record.ready for number in range(len(record.outline))),
        )

    def result(self, record: JobRecord, chapter: int | None = None) -> Path | str:
        """Return the file of a chapter, from 0, or of the whole; its address where it lies in a bucket.

        Raises NotFound for a chapter that there is not, or a file that somebody has removed, and Conflict for what has
        not been made yet.
        """
        if chapter is not None and not 0 <= chapter < len(record.outline):
            raise NotFound(f"chapter: there are {len(record.outline)}.", param="chapter")
        name = whole_name(record) if chapter is None else chapter_name(record, chapter)
        if name not in record.ready:
            raise Conflict("This part has not been spoken yet.", code="not_finished")
        if self._bucket is not None and name in record.keys:
            return self._bucket.url(record.keys[name])
        path = self._store.result(record.id, name)
        if not path.is_file():
            log.warning("the result %s of the job %s is gone", name, record.id)
            raise NotFound("The file of this part is no longer there.", param="id")
        return path

    async def changes(self, record: JobRecord, ping_s: float) -> AsyncIterator[bool]:
        """Yield at once, and then whenever something has changed (True) or ``ping_s`` have passed without (False).

        Ends with the job, or when it is deleted, or when nobody may listen any more.
        """
        yield True
        while not record.status.is_final and record.id in self._records and not self._dismissed:
            changed = self._changed
            try:
                async with asyncio.timeout(ping_s):
                    await changed.wait()
            except TimeoutError:
                yield False
                continue
            yield True

    def dismiss(self) -> None:
        """Let go of all who follow ``changes``; the work goes on."""
        self._dismissed = True
        self._notify()

    # -- the work

    def start(self, services: Services) -> None:
        """Begin to speak what is queued."""
        self._task = asyncio.create_task(self._work(services))

    async def close(self) -> None:
        """Stop; a piece that is not finished will be spoken again."""
        for task in (self._running[1] if self._running else None, self._task):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        self._task = self._running = None
        await asyncio.to_thread(self._writer.shutdown)

    async def _work(self, services: Services) -> None:
        while True:
            changed = self._changed
            await self._forget()
            record = next((each for each in self._records.values() if each.status is JobStatus.QUEUED), None)
            if record is None:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), _FORGET_S)
                continue
            task = asyncio.create_task(self._run(record, services))
            self._running = (record.id, task)
            await asyncio.wait([task])
            self._running = None
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("the job %s has failed", record.id, exc_info=error)
                await self._fail(record, JobError(code="internal_error", message="The server failed at this job."))

    async def _run(self, record: JobRecord, services: Services) -> None:
        service = services.of(record.spec.model)
        record.started_at = record.started_at or time.time()
        try:
            self._bind(record, service.engine.info)
            await self._set(record, JobStatus.RUNNING)
            text = await asyncio.to_thread(self._store.text, record.id)
            clip = await asyncio.to_thread(self._store.clip, record.id) if record.spec.has_clip else None
            for number, chapter in enumerate(record.outline):
                if chapter_name(record, number) in record.ready:
                    continue
                numbers = range(chapter.first, chapter.first + chapter.pieces)
                await self._speak_all(record, service, text, numbers, clip)
                chapter.audio_s = await self._make(record, chapter_name(record, number), text, numbers)
                await self._save(record)
            if len(record.outline) > 1:
                await self._make(record, whole_name(record), text, range(record.pieces))
            self._end(record)
            await self._set(record, JobStatus.COMPLETED)
            self._store.pieces(record.id).remove()
        except EchoError as error:
            await self._fail(record, JobError(code=error.code, message=error.message))
        except OSError as error:
            log.warning("the job %s cannot be kept: %s", record.id, error)
            await self._fail(
                record, JobError(code="storage_failed", message="The server's disk is full or cannot be used.")
            )

    def _bind(self, record: JobRecord, info: EngineInfo) -> None:
        """Note which engine speaks a job; raises Conflict where another one has begun."""
        begun = record.ready or self._store.pieces(record.id).sizes()
        if begun and record.engine and (record.engine, record.sample_rate) != (info.name, info.sample_rate):
            raise Conflict(
                f"This job was begun by {record.engine}, and now {info.name} would speak it. Resume it once the server "
                "has that engine again, or make a new one.",
                code="engine_changed",
            )
        record.engine, record.sample_rate = info.name, info.sample_rate

    async def _speak_all(
        self, record: JobRecord, service: SpeechService, text: BookText, numbers: Iterable[int], clip: bytes | None
    ) -> None:
        """Speak the pieces that are missing, ``parallel`` at a time."""
        pieces = self._store.pieces(record.id)
        there = pieces.sizes()
        missing = deque(number for number in numbers if number not in there)

        async def speak() -> None:
            while missing:
                number = missing.popleft()
                audio = await self._speak(service, record.spec, text.piece(number).text, number, clip)
                await asyncio.to_thread(pieces.write, number, audio)
                self._notify()

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.rules.parallel, len(missing))):
                    group.create_task(speak())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _speak(self, service: SpeechService, spec: JobSpec, text: str, number: int, clip: bytes | None) -> bytes:
        async def speak() -> bytes:
            async with _alone(service):
                _, audio = await service.collect(spec.request(text, number, clip))
                return audio

        return await _with_patience(speak)

    async def _make(self, record: JobRecord, name: str, text: BookText, numbers: Iterable[int]) -> float:
        """Write a result, and move it to the bucket if there is one; return its seconds."""
        pieces = self._store.pieces(record.id)
        parts = [(pieces.path(number), text.piece(number).pause_ms) for number in numbers]
        target = self._store.result(record.id, name)
        seconds = await asyncio.to_thread(render, parts, target, record.spec.format, record.sample_rate)
        if self._bucket is not None:
            media_type = MEDIA_TYPES[record.spec.encoding]
            upload = partial(asyncio.to_thread, self._bucket.upload, target, record.id, media_type)
            record.keys[name] = await _with_patience(upload)
            target.unlink()
        record.ready.append(name)
        return seconds

    # -- changes

    async def _stop(self, record: JobRecord, status: JobStatus) -> None:
        if self._running is not None and self._running[0] == record.id:
            task = self._running[1]
            task.cancel()
            await asyncio.wait([task])
        if not record.status.is_final:  # or it has come to its end meanwhile
            record.status = status
            await self._save_if_possible(record)

    def _refuse_final(self, record: JobRecord, what: str) -> None:
        if record.status.is_final:
            raise Conflict(f"The job is {record.status}; there is nothing to {what}.")

    async def _fail(self, record: JobRecord, error: JobError) -> None:
        record.error, record.status = error, JobStatus.FAILED
        self._end(record)
        await self._save_if_possible(record)

    def _end(self, record: JobRecord) -> None:
        record.finished_at = time.time()
        self._ended[record.id] = time.monotonic()

    async def _set(self, record: JobRecord, status: JobStatus) -> None:
        """Change the status once the disk has it: nobody is told of what a crash would take back."""
        changed = record.model_copy(update={"status": status})
        await self._write(self._store.save, record.id, changed.model_dump_json(indent=1))
        record.status = status
        self._notify()

    async def _save(self, record: JobRecord) -> None:
        try:
            await self._write(self._store.save, record.id, record.model_dump_json(indent=1))
        finally:
            self._notify()

    async def _save_if_possible(self, record: JobRecord) -> None:
        """Keep a changed record; on a full disk it stays as it was there, and holds until a restart."""
        try:
            await self._save(record)
        except OSError as error:
            log.warning("the job %s cannot be kept: %s", record.id, error)

    async def _write(self, write: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Change something on the disk, after all that has been asked for before, and also when this is cancelled."""
        await asyncio.get_running_loop().run_in_executor(self._writer, partial(write, *args, **kwargs))

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _forget(self) -> None:
        """Remove the jobs that have ended long ago."""
        for record in list(self._records.values()):
            if record.status.is_final and self._ended_s_ago(record) > self.rules.keep_s:
                try:
                    await self._remove(record)
                except OSError as error:
                    log.warning("the job %s cannot be removed: %s", record.id, error)

    def _ended_s_ago(self, record: JobRecord) -> float:
        """Return for how long a job has been over: by the wall clock only as far as that was before this process."""
        now, (wall, started) = time.monotonic(), self._started
        if record.id in self._ended:
            return now - self._ended[record.id]
        return wall - (record.finished_at or record.created_at) + now - started

    async def _remove(self, record: JobRecord) -> None:
        await self._write(self._store.remove, record.id)
        self._records.pop(record.id, None)
        self._ended.pop(record.id, None)
        if self._bucket is not None:
            for key in record.keys.values():
                await asyncio.to_thread(self._bucket.remove, key)


async def _with_patience(work: Callable[[], Awaitable[T]]) -> T:
    """Do something again after a failure that may pass."""
    tries, pause_s = 0, _PAUSE_S
    while True:
        try:
            return await work()
        except _PASSING as error:
            tries += not isinstance(error, _NO_TRY)
            if tries >= _TRIES:
                raise
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


@contextlib.asynccontextmanager
async def _alone(service: SpeechService) -> AsyncIterator[None]:
    """Keep out of the way where the engine does not: wait until nobody speaks, and end once somebody wants to.

    Raises Preempted. An engine of blocks has priorities of its own, so that this does nothing.
    """
    if service.engine.info.blocks:
        yield
        return
    while service.admission.open:  # noqa: ASYNC110 - a slot that is given back sets no event
        await asyncio.sleep(_LOOK_S)
    task = asyncio.current_task()
    assert task is not None
    preempted = False

    async def watch(cancel: Callable[[], bool]) -> None:
        nonlocal preempted
        while not service.admission.open:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_S)
        preempted = True
        cancel()

    watcher = asyncio.create_task(watch(task.cancel))
    try:
        yield
    except asyncio.CancelledError:
        if preempted and task.uncancel() == 0:
            raise Preempted("Others need the device.") from None
        raise
    finally:
        watcher.cancel()


def _not_stored() -> EchoError:
    return EchoError("The server could not store the change.", code="storage_failed")


def chapter_name(record: JobRecord, number: int) -> str:
    """Return the file name of a chapter's result; a job of one chapter has one file."""
    if len(record.outline) == 1:
        return whole_name(record)
    return f"chapter-{number + 1:03d}.{_suffix(record.spec.encoding)}"


def whole_name(record: JobRecord) -> str:
    """Return the file name of the whole result."""
    return f"whole.{_suffix(record.spec.encoding)}"


def _suffix(encoding: Encoding) -> str:
    return "ogg" if encoding is Encoding.OPUS else encoding.value
