"""Jobs: from the platform's ``input`` to the answer, whole or as a stream. Nothing but an answer comes out."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

from echo.audio.encode import open_output
from echo.emotion import check_emotion
from echo.errors import BadRequest, EchoError, VoiceNotFound
from echo.service import SpeechService
from echo.settings import Settings
from echo.types import Audio, SpeechRequest
from worker.deliver import FILE_FACTS, FILE_FORMAT, FILE_SUFFIX, FILE_TYPE, encoded, inline, pieces
from worker.job import Job
from worker.schema import is_health_check, parse_job
from worker.settings import WorkerSettings
from worker.speaker import Speaker
from worker.speech import requests, speak
from worker.storage import Storage
from worker.voices import JobVoices, voice_not_found

log = logging.getLogger(__name__)

Answer = dict[str, Any]

#: What the warm-up speaks: long enough for a second chunk, so that two are spoken at the same time.
_WARM_UP = {"text": "The worker is warming up. " * 6, "parameters": {"seed": 0}}
#: Errors of the service name its own fields; these are the job's.
_FIELDS = {"input": "text", "voice": "speaker_voice"}


class Jobs:
    """Answers jobs. Its coroutines run on the speaker's loop.

    An error is an answer with ``error``, which the platform makes a failed job of.
    """

    def __init__(self, settings: Settings, worker: WorkerSettings, speaker: Speaker) -> None:
        self._settings = settings
        self._worker = worker
        self._speaker = speaker
        self.voices = JobVoices(
            settings.voice_folders, clip_folders=settings.folder_support, fetches=bool(settings.voice_base_url)
        )
        self.storage = Storage(worker) if worker.has_s3 else None
        self._slots = asyncio.Semaphore(worker.jobs)

    async def whole(self, data: object, job_id: str = "") -> Answer:
        """Answer a job with one message; ``job_id`` is for the log."""
        try:
            if is_health_check(data):
                return await self.health()
            job = await self._parse(data)
            if job.stream:
                raise BadRequest(
                    "stream must be false: this worker answers in one piece. Start it with STREAM_HANDLER=1.",
                    param="stream",
                )
            return await self._file(job, as_piece=False)
        except Exception as error:
            return failure(error, job_id)

    async def stream(self, data: object, job_id: str = "") -> AsyncGenerator[Answer]:
        """Answer a job with messages as they are made; a job without ``stream`` with one."""
        try:
            if is_health_check(data):
                yield await self.health()
                return
            job = await self._parse(data)
            if not job.stream:
                yield await self._file(job, as_piece=True)
                return
            async with aclosing(self._stream(job)) as messages:
                async for message in messages:
                    yield message
        except Exception as error:
            yield failure(error, job_id)

    async def health(self) -> Answer:
        """Tell what works; loads nothing."""
        s3 = await self.storage.reachable() if self.storage else False
        checks = {
            "voices_dir": all([folder.is_dir() for folder in self.voices.folders]),
            "output_dir": _writable(self._worker.output_dir),
            "audio_files": await asyncio.to_thread(self.voices.count),
            "s3": s3,
            "model": self._speaker.is_loaded,
        }
        hands_over = s3 if self.storage else self._worker.inline_audio
        well = checks["voices_dir"] and checks["output_dir"] and hands_over and not self._speaker.has_failed
        return {"status": "healthy" if well else "unhealthy", "checks": checks}

    async def warm_up(self) -> None:
        """Load the model and speak once as a job does, into a file that nobody gets; raises EchoError.

        An engine that speaks with no voice but the jobs' is only loaded.
        """
        job = await self._parse(_WARM_UP)
        service = await self._speaker.service()
        async with aclosing(self._samples(job, service)) as samples:
            with open_output(FILE_FORMAT, service.engine.info.sample_rate) as output:
                try:
                    async for part in samples:
                        output.push(part)
                    output.finish()
                except BadRequest as error:
                    log.warning("not warmed up: %s", error.message)

    async def _file(self, job: Job, *, as_piece: bool) -> Answer:
        if self.storage is None and not self._worker.inline_audio:
            raise EchoError(f"The worker has no storage: {', '.join(self._worker.missing)} not set.")
        async with self._slots:
            service = await self._speaker.service()
            async with (
                aclosing(self._samples(job, service)) as samples,
                encoded(samples, service.engine.info.sample_rate, self._worker.output_dir) as spoken,
            ):
                name = job.session_id + FILE_SUFFIX
                metadata: Answer = {**FILE_FACTS, "duration": round(spoken.duration_s, 3), "seed": job.seed}
                if job.warnings:
                    metadata["warnings"] = list(job.warnings)
                if self.storage is None:
                    audio = inline(spoken.file, as_piece=as_piece)
                    return {"status": "completed", "filename": name, "audio_base64": audio, "metadata": metadata}
                stored = await self.storage.upload(spoken.file, name, FILE_TYPE)
        return {
            "status": "completed",
            "filename": name,
            "url": stored.url,
            "s3_key": stored.key,
            "metadata": metadata,
        }

    async def _stream(self, job: Job) -> AsyncGenerator[Answer]:
        async with self._slots:
            service = await self._speaker.service()
            rate = service.engine.info.sample_rate
            count, length = 0, 0
            async with aclosing(self._samples(job, service)) as samples, aclosing(pieces(samples, rate)) as messages:
                async for message in messages:
                    count, length = message["chunk"], length + 3 * len(message["audio_chunk"]) // 4
                    yield message
        last: Answer = {"status": "complete", "format": "pcm_16", "total_chunks": count}
        facts: Answer = {"sample_rate": rate, "duration": round(length / 2 / rate, 3), "seed": job.seed}
        metadata = {**(facts if job.reports_stream else {}), **({"warnings": [*job.warnings]} if job.warnings else {})}
        yield {**last, "metadata": metadata} if metadata else last

    async def _samples(self, job: Job, service: SpeechService) -> AsyncGenerator[Audio]:
        try:
            asked = await asyncio.to_thread(self._requests, job, service)
            async with aclosing(speak(job, service, asked)) as samples:
                async for part in samples:
                    yield part
        except VoiceNotFound as error:  # it has been deleted since it was found, or is not to be fetched either
            raise voice_not_found(error.name, _FIELDS.get(error.param or "", error.param or "")) from error

    async def _parse(self, data: Any) -> Job:
        job = parse_job(data, self._settings.engine_names[0], self._settings.max_input_chars)
        if job.voice is not None:  # who names a wrong one need not wait for the model
            await asyncio.to_thread(self.voices.find, job.voice)
        return job

    def _requests(self, job: Job, service: SpeechService) -> list[SpeechRequest]:
        """What is asked of the service; looks into the voices folders, so not on the event loop."""
        check_emotion(service.engine.info, job.emotion)
        voice = self.voices.find(job.voice) if job.voice is not None else job.no_voice
        if job.emotion is not None and job.emotion.clip is not None:
            clip = self.voices.find(job.emotion.clip.name or "", "emo_audio_prompt")
            job = replace(job, emotion=replace(job.emotion, clip=clip))
        return requests(job, service, voice)


def failure(error: Exception, job_id: str) -> Answer:
    """The answer to a job that has failed: plain words, nothing of the machine."""
    if not isinstance(error, EchoError):
        log.error("job %s failed", job_id, exc_info=error)
        return {"status": "error", "error": "The job failed; the worker's log says why."}
    message = error.message
    for ours, theirs in _FIELDS.items():
        message = re.sub(f"^{ours}:", theirs, message)
    log.warning("job %s was refused or failed: %s", job_id, message)
    return {"status": "error", "error": message}


def _writable(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
