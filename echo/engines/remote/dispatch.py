"""The way of jobs to an engine's process and of their audio back: whose turn, voices, credit, and how each ends."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Collection

import numpy as np

from echo.emotion import named_values
from echo.engines.remote.jobs import Job, JobQueue, Pace
from echo.engines.remote.link import ChildLink
from echo.engines.remote.messages import Cancel, Credit, Done, Failure, Ready, Samples, Speak, Voice
from echo.engines.remote.voice import NamedVoice, RemoteVoice
from echo.errors import BadRequest, EchoError, EngineFailed, NotReady, OutOfMemory, Overloaded, TooLarge
from echo.stream import FrameStream
from echo.types import SAMPLE_RATE, AudioFrame, Utterance, VoiceState, Workload

log = logging.getLogger(__name__)

#: Credit is granted in pieces of at least this part of the whole.
_LEAST_CREDIT = 1 / 60


class Dispatcher:
    """The jobs of an engine, over all of its processes.

    ``submit``, ``wait_s``, ``workload``, ``reset_pace`` and ``refuse`` may be called from any thread, the other methods
    from the one that owns the process.

    credit_s  seconds of audio that may be ahead of what a listener has taken
    wake      called when there is something to do
    """

    def __init__(self, name: str, credit_s: float, clock: Callable[[], float], wake: Callable[[], None]) -> None:
        self._name = name
        self._credit_s = credit_s
        self._clock = clock
        self._wake = wake
        self._lock = threading.Lock()
        self._jobs = JobQueue()
        self._pace = Pace()
        self._ids = itertools.count(1)
        self._refusal: EchoError | None = None
        #: Pieces of audio that have come from all processes.
        self._pieces = 0
        #: Jobs in a row for which the memory has not sufficed.
        self.out_of_memory = 0
        #: All jobs for which it has not.
        self._all_out_of_memory = 0

    # -- from any thread

    def submit(self, utterance: Utterance) -> FrameStream:
        """Queue an utterance; its stream ends at once after ``refuse``."""
        stream = FrameStream(on_consumer=self._wake)
        with self._lock:
            refusal = self._refusal
            if refusal is None:
                job = Job(id=next(self._ids), utterance=utterance, stream=stream, arrived=self._clock())
                self._jobs.waiting.append(job)
        if refusal is not None:
            stream.finish(refusal)
        self._wake()
        return stream

    def wait_s(self, ready: Ready) -> float:
        """Estimate how long a job that came now would wait for those before it, in seconds."""
        with self._lock:
            return self._jobs.wait_s(ready.limits.concurrent, ready.sample_rate, self._pace.seconds_per_second)

    def workload(self, queue_wait_s: float, moved_at: float) -> Workload:
        """Current queue; ``moved_at``: when the process has last got on."""
        with self._lock:
            oldest = min((job.begun for job in self._jobs.active.values() if job.begun is not None), default=None)
            busy = self._clock() - max(oldest, moved_at) if oldest is not None else 0.0
            return Workload(
                active=len(self._jobs.active),
                waiting=sum(not job.utterance.listener.background for job in self._jobs.waiting),
                queue_wait_s=queue_wait_s,
                busy_s=busy,
                steps=self._pieces,
                out_of_memory=self._all_out_of_memory,
            )

    def reset_pace(self) -> None:
        """Measure the pace afresh."""
        with self._lock:
            self._pace = Pace()

    def refuse(self, reason: NotReady) -> None:
        """Fail all jobs, and those that still come."""
        with self._lock:
            self._refusal = self._refusal or reason
            jobs = [*self._jobs.active.values(), *self._jobs.waiting]
            self._jobs = JobQueue()
        for job in jobs:
            job.stream.finish(reason)

    # -- from the thread that owns the process

    @property
    def busy(self) -> bool:
        """Whether the process has jobs."""
        return bool(self._jobs.active)

    @property
    def waiting(self) -> bool:
        """Whether jobs wait."""
        return bool(self._jobs.waiting)

    def drop_cancelled(self) -> None:
        """End the waiting jobs that nobody listens to."""
        with self._lock:
            gone = self._jobs.drop_cancelled()
        for job in gone:
            job.stream.finish()

    def serve(self, link: ChildLink, ready: Ready, now: float) -> None:
        """Send the process cancellations, credit and new jobs."""
        window = max(1, round(self._credit_s * ready.sample_rate))
        for job in list(self._jobs.active.values()):
            if job.stream.cancelled:
                self._cancel(link, job)
            elif more := job.refill(window, max(1, int(window * _LEAST_CREDIT)), now):
                link.send(Credit(id=job.id, samples=more))
        while self._jobs.waiting and len(self._jobs.active) < ready.limits.concurrent:
            with self._lock:
                job = self._jobs.take()
            job.begin(now, window)
            self._speak(link, job)

    def cancel_all(self, link: ChildLink) -> None:
        """Have the process end its jobs."""
        for job in self._jobs.active.values():
            self._cancel(link, job)

    def deliver(self, link: ChildLink, message: Samples, rate: int, now: float) -> str | None:
        """Pass audio on to its listener; returns why the process cannot be trusted, None where it can."""
        job = self._jobs.active.get(message.id)
        if job is None:
            return None
        if len(message.pcm) % 4 or message.seq != job.frames:
            return f"frame {message.seq} of job {message.id} is not the one that follows, or no float32"
        samples = np.frombuffer(message.pcm, np.dtype("<f4")).astype(np.float32)
        if not np.isfinite(samples).all():
            log.error("%s: the audio of job %d is not finite", self._name, job.id)
            job.stream.finish(EngineFailed("Generation failed."))
            self._cancel(link, job)
            return None
        with self._lock:
            job.receive(len(samples), rate, now)
            self._pieces += 1
        job.stream.put(AudioFrame(samples, rate, job.utterance.chunk, message.seq, message.last))
        return None

    def finish(self, message: Done, rate: int, now: float) -> None:
        """End a job that is done."""
        with self._lock:
            job = self._jobs.active.pop(message.id, None)
            if job is None:
                return
            if job.produced and not message.cancelled:
                self._pace.count(job.working_s(now), job.produced / rate)
        self.out_of_memory = 0
        if message.truncated:
            log.warning("%s: a text was too long and its speech is cut off", self._name)
        job.stream.stats.steps = message.stats.tokens
        job.stream.stats.total_s = now - job.arrived
        job.stream.finish()

    def fail(self, link: ChildLink, message: Failure, ready: Ready | None) -> None:
        """End a job that has failed, or send it again with the clips that the process has dropped."""
        assert message.id is not None
        job = self._jobs.active.get(message.id)
        if job is None:
            return  # the failure of a voice alone: those who speak with it hear of it
        if message.code == "voice_unknown" and not job.voice_sent_again:
            # The process had no room left for it, or for the clip of the emotion.
            job.voice_sent_again = True
            for voice in (job.utterance.voice, job.utterance.emotion_voice):
                if isinstance(voice, RemoteVoice):
                    link.voices.discard(voice.key)
            self._speak(link, job)
            return
        with self._lock:
            self._jobs.active.pop(message.id, None)
        log.warning("%s: job %d: %s: %s", self._name, message.id, message.code, message.message)
        exhausted = message.code == "out_of_memory"
        self.out_of_memory = self.out_of_memory + 1 if exhausted else 0
        self._all_out_of_memory += exhausted
        job.stream.finish(_refusal(message, _names(ready)))

    def lose(self, retry_after_s: float) -> None:
        """Fail the jobs of a process that has gone; the others wait for the next, which is there in a while."""
        with self._lock:
            lost, self._jobs.active = list(self._jobs.active.values()), {}
        for job in lost:
            job.stream.finish(EngineFailed("The engine has stopped. Try again.", retry_after_s=retry_after_s))

    def refuse_overdue(self, now: float, down_since: float, patience_s: float, retry_after_s: float) -> None:
        """Refuse the jobs that have waited for a process for too long."""
        with self._lock:
            late = {job for job in self._jobs.waiting if now - max(job.arrived, down_since) > patience_s}
            self._jobs.waiting = [job for job in self._jobs.waiting if job not in late]
        for job in late:
            error = Overloaded("The engine is being restarted. Try again later.", retry_after_s=retry_after_s)
            job.stream.finish(error)

    def _cancel(self, link: ChildLink, job: Job) -> None:
        """Send the process one cancellation; the job ends when the process confirms it."""
        if not job.cancel_sent:
            job.cancel_sent = True
            link.send(Cancel(id=job.id))

    def _speak(self, link: ChildLink, job: Job) -> None:
        utterance = job.utterance
        voice = utterance.voice
        link.send(
            Speak(
                id=job.id,
                text=job.text,
                # Chunks of a request differ in their noise, and repeat with its seed.
                seed=utterance.seed + utterance.chunk,
                credit=job.granted,
                key=self._send_voice(link, voice),
                name=voice.name if isinstance(voice, NamedVoice) else None,
                emotion_key=self._send_voice(link, utterance.emotion_voice),
                options={**utterance.options, **named_values(utterance.emotion)},
            )
        )

    def _send_voice(self, link: ChildLink, voice: VoiceState | None) -> str | None:
        """Send a clip that the process does not have, and return its key; None for what is no clip."""
        if not isinstance(voice, RemoteVoice):
            return None
        if voice.key not in link.voices:
            link.voices.add(voice.key)
            link.send(Voice(id=next(self._ids), key=voice.key, rate=SAMPLE_RATE, pcm=voice.samples.tobytes()))
        return voice.key


def _names(ready: Ready | None) -> set[str]:
    """Return the names of the fields that the engine may find wrong."""
    return {"voice", *(option.name for option in ready.options), *ready.capabilities.emotion} if ready else set()


def _refusal(failure: Failure, names: Collection[str]) -> EchoError:
    """Return the error for the client; the process's own message stays in the log, but for the field's name in it."""
    match failure.code:
        case "voice_rejected" | "voice_unknown":
            return BadRequest("voice: this engine cannot use the clip.", param="voice")
        case "voice_missing":
            return BadRequest("voice: must be given; this engine has none of its own.", param="voice")
        case "too_long":
            return TooLarge("The text is too long for this engine.")
        case "bad_option":
            if (name := failure.message.partition(":")[0]) in names:
                return BadRequest(f"{name}: the engine does not take this value.", param=name)
            return BadRequest("The engine does not take one of the options.")
        case "out_of_memory":
            return OutOfMemory()
        case _:
            return EngineFailed("Generation failed.")
