"""The thread that owns an engine's process: starts it, gives it jobs, watches it, and starts it again."""

from __future__ import annotations

import itertools
import logging
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from echo.engines.remote.config import CHILD, RemoteConfig
from echo.engines.remote.jobs import Job, JobQueue, Pace
from echo.engines.remote.link import ChildLink, Gone, Received
from echo.engines.remote.messages import (
    PROTOCOL,
    Cancel,
    Credit,
    Done,
    Failure,
    FromChild,
    Hello,
    Loading,
    Ping,
    Pong,
    Ready,
    Samples,
    Shutdown,
    Speak,
    Voice,
    Voiced,
)
from echo.engines.remote.voice import NamedVoice, RemoteVoice
from echo.errors import BadRequest, EchoError, EngineFailed, LoadError, NotReady, Overloaded, TooLarge
from echo.stream import FrameStream
from echo.types import SAMPLE_RATE, AudioFrame, Utterance, VoiceState, Workload

log = logging.getLogger(__name__)

#: The thread looks at clocks at least so often, in seconds.
_LOOK_S = 0.25
#: What a process that is ending gets for it, in seconds.
_LAST_S = 1.0
#: Credit is granted in pieces of at least this part of the whole.
_LEAST_CREDIT = 1 / 60


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteRules:
    """Times, in seconds.

    credit      audio that may be ahead of what the listener has taken (as with Echo-TTS)
    backoff     wait before the first restart; doubled with each, up to ``backoff_max``, until ``steady`` have gone well
    ping, pong  between two questions whether the process lives; longest wait for the answer
    stall       longest time in which a job makes no step
    patience    longest time that a request waits for a process that is down; then it is refused
    idle_stop   without work, after which the process is stopped; 0: it stays
    grace       that the process gets to end when the server does
    """

    credit: float = 60.0
    backoff: float = 1.0
    backoff_max: float = 60.0
    steady: float = 300.0
    ping: float = 5.0
    pong: float = 30.0
    stall: float = 120.0
    patience: float = 60.0
    idle_stop: float = 0.0
    grace: float = 5.0


class _State(Enum):
    LOADING = "loading"  # the process runs and is not ready yet
    READY = "ready"
    DOWN = "down"  # it has failed and starts again later
    IDLE = "idle"  # it was stopped for want of work
    ENDED = "ended"


class Supervisor:
    """Runs an engine in a child process. Thread-safe; all of its state belongs to its thread or is under its lock.

    ``first_ready`` is done when the process is ready for the first time, or has failed to be: with LoadError.
    """

    def __init__(
        self,
        config: RemoteConfig,
        rules: RemoteRules,
        environment: Mapping[str, str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._rules = rules
        self._environment = dict(environment)
        if config.table.threads:
            self._environment["OMP_NUM_THREADS"] = str(config.table.threads)
        self._clock = clock
        self.first_ready: Future[Ready] = Future()
        self._lock = threading.Lock()
        self._jobs = JobQueue()
        self._pace = Pace()
        self._ids = itertools.count(1)
        #: Messages of the process; None only wakes the thread.
        self._inbox: queue.SimpleQueue[Received | Gone | None] = queue.SimpleQueue()
        self._closing = False
        self._refusal: EchoError | None = None
        self._state = _State.DOWN
        self._link: ChildLink | None = None
        self._ready: Ready | None = None
        self._retry_at = clock()
        self._failures = 0
        self._out_of_memory = 0
        self._load_s = 0.0
        self._began = self._ready_at = self._worked_at = self._moved_at = self._pinged_at = clock()
        #: Since when there is no process that is ready, because one has failed.
        self._down_since: float | None = None
        self._unanswered_since: float | None = None
        #: Pieces of audio that have come from all its processes.
        self._pieces = 0
        self._steps = 0
        self._pings = 0
        self._folder = Path(tempfile.mkdtemp(prefix=f"echo-{config.name}-"))
        self._thread = threading.Thread(target=self._run, name=f"{config.name}-engine", daemon=True)
        self._thread.start()

    # -- from any thread

    def submit(self, utterance: Utterance) -> FrameStream:
        """Queue an utterance; its stream ends with NotReady when the server is closing."""
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

    def queue_wait(self) -> float:
        """Estimate how long an utterance, submitted now, would wait, in seconds."""
        with self._lock:
            if self._ready is None:
                return 0.0
            rate, concurrent = self._ready.sample_rate, self._ready.limits.concurrent
            wait = self._jobs.wait_s(concurrent, rate, self._pace.seconds_per_second)
            now = self._clock()
            match self._state:
                case _State.DOWN:
                    return wait + max(0.0, self._retry_at - now) + self._load_s
                case _State.LOADING:
                    return wait + max(0.0, self._began + self._load_s - now)
                case _State.IDLE:
                    return wait + self._load_s
                case _:
                    return wait

    def workload(self) -> Workload:
        """Current queue."""
        wait = self.queue_wait()
        with self._lock:
            oldest = min((job.begun for job in self._jobs.active.values() if job.begun is not None), default=None)
            busy = self._clock() - max(oldest, self._moved_at) if oldest is not None else 0.0
            return Workload(
                active=len(self._jobs.active),
                waiting=sum(not job.utterance.listener.background for job in self._jobs.waiting),
                queue_wait_s=wait,
                busy_s=busy,
                steps=self._pieces,
            )

    def reset_pace(self) -> None:
        """Measure the pace afresh."""
        with self._lock:
            self._pace = Pace()

    @property
    def pid(self) -> int | None:
        """Number of the process; None while there is none."""
        link = self._link
        return link.pid if link is not None else None

    @property
    def alive(self) -> bool:
        """False once this object's own thread has ended."""
        return self._thread.is_alive()

    @property
    def available(self) -> bool:
        """False while the process has failed and is not ready again."""
        with self._lock:
            return self._state in (_State.READY, _State.IDLE) or (
                self._state is _State.LOADING and self._down_since is None
            )

    def close(self) -> None:
        """Fail what is left and end the process."""
        self._closing = True
        self._wake()
        self._thread.join(self._rules.grace + 10)
        if self._thread.is_alive():
            log.error("%s: the thread of the engine does not end", self._config.name)
            self.give_up()

    def give_up(self) -> None:
        """Fail everything and kill the process, without waiting for this object's thread."""
        self._fail_all(NotReady("The engine has stopped.", retry_after_s=30))
        if self._link is not None:
            self._link.kill()

    def _wake(self) -> None:
        self._inbox.put(None)

    # -- the thread

    def _run(self) -> None:
        try:
            while not self._closing:
                self._advance(self._clock())
                self._take_messages()
        except BaseException:
            log.exception("%s: the engine's thread has failed", self._config.name)
        finally:
            self._end()

    def _take_messages(self) -> None:
        wait = _LOOK_S
        if self._state is _State.DOWN:
            wait = min(wait, max(0.0, self._retry_at - self._clock()))
        try:
            event = self._inbox.get(timeout=wait)
            while True:
                if event is not None and event.link is self._link:  # not of a process that was given up
                    if isinstance(event, Gone):
                        self._give_up_process(event.reason, ending=event.closed)
                    else:
                        self._receive(event.message)
                event = self._inbox.get_nowait()
        except queue.Empty:
            pass

    def _advance(self, now: float) -> None:
        """Do what is due by the clock and by the queue."""
        with self._lock:
            gone = self._jobs.drop_cancelled()
        for job in gone:
            job.stream.finish()
        match self._state:
            case _State.DOWN:
                self._refuse_overdue(now)
                if now >= self._retry_at:
                    self._start(now)
            case _State.IDLE:
                if self._jobs.waiting:
                    self._start(now)
            case _State.LOADING:
                self._refuse_overdue(now)
                self._watch(now)
            case _State.READY:
                self._serve(now)
                self._watch(now)

    def _start(self, now: float) -> None:
        self._began = self._moved_at = self._pinged_at = now
        self._unanswered_since = None
        self._steps = 0
        self._set(_State.LOADING)
        try:
            self._link = ChildLink(
                self._config.name,
                [*self._config.command, "-I", str(CHILD)],
                environment=self._environment,
                folder=self._folder,
                post=self._inbox.put,
            )
        except OSError as error:
            self._give_up_process(f"its process cannot be started: {error}")
            return
        table = self._config.table
        engine = {
            name: getattr(table, name) for name in ("model", "device", "dtype", "threads", "memory_gb", "options")
        }
        self._link.send(Hello(engine={"name": self._config.name, "adapter": str(self._config.adapter), **engine}))

    def _serve(self, now: float) -> None:
        """Send the process new jobs, credit and cancellations."""
        link, ready = self._link, self._ready
        assert link is not None
        assert ready is not None
        window = max(1, round(self._rules.credit * ready.sample_rate))
        for job in list(self._jobs.active.values()):
            if job.stream.cancelled:
                self._cancel(job)
            elif more := job.refill(window, max(1, int(window * _LEAST_CREDIT)), now):
                link.send(Credit(id=job.id, samples=more))
        while self._jobs.waiting and len(self._jobs.active) < ready.limits.concurrent:
            with self._lock:
                job = self._jobs.take()
            job.begin(now, window)
            if len(self._jobs.active) == 1:
                self._moved_at = now  # until now there was nothing to do
            self._speak(link, job)
        if self._jobs.active or self._jobs.waiting:
            self._worked_at = now
        elif 0 < self._rules.idle_stop <= now - self._worked_at:
            log.info("%s: stopped after %.0f s without work", self._config.name, now - self._worked_at)
            self._set(_State.IDLE)
            self._stop(link)

    def _cancel(self, job: Job) -> None:
        """Send the process one cancellation; the job ends when the process confirms it."""
        if not job.cancel_sent and self._link is not None:
            job.cancel_sent = True
            self._link.send(Cancel(id=job.id))

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
                options={**utterance.options, **emotion_options(utterance)},
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

    def _watch(self, now: float) -> None:
        """Ping the process, and kill it when it does not answer or makes no step."""
        link = self._link
        if link is None:  # just stopped
            return
        if self._unanswered_since is not None and now - self._unanswered_since > self._rules.pong:
            self._give_up_process(f"it has not answered for {now - self._unanswered_since:.0f} s")
        elif self._jobs.active and now - self._moved_at > self._rules.stall:
            self._give_up_process(f"it has made no step for {now - self._moved_at:.0f} s")
        elif self._unanswered_since is None and now - self._pinged_at >= self._rules.ping:
            self._pings += 1
            self._pinged_at = self._unanswered_since = now
            link.send(Ping(n=self._pings))

    def _receive(self, message: FromChild) -> None:
        now = self._clock()
        match message:
            case Pong():
                if message.n == self._pings:
                    self._unanswered_since = None
                if message.steps != self._steps:
                    self._steps, self._moved_at = message.steps, now
            case Loading():
                log.info("%s: loading: %s", self._config.name, message.stage)
            case Ready():
                self._accept_ready(message, now)
            case Voiced():
                log.debug("%s: voice %s is encoded, %d bytes", self._config.name, message.key[:8], message.nbytes)
            case Samples():
                self._moved_at = now
                self._deliver(message, now)
            case Done():
                self._moved_at = now
                self._finish(message, now)
            case Failure():
                self._fail(message)

    def _accept_ready(self, ready: Ready, now: float) -> None:
        first = self._ready is None
        if ready.protocol != PROTOCOL or ready.sample_rate < 1 or ready.limits.concurrent < 1:
            self._give_up_process(f"it speaks protocol {ready.protocol} at {ready.sample_rate} Hz")
            return
        if self._ready is not None and ready.sample_rate != self._ready.sample_rate:
            self._give_up_process(f"its rate has changed from {self._ready.sample_rate} to {ready.sample_rate} Hz")
            return
        self._load_s = now - self._began
        self._worked_at = self._ready_at = now
        self._down_since = None
        with self._lock:
            self._ready, self._state = ready, _State.READY
        log.info("%s: %s %s is ready after %.1f s", self._config.name, ready.name, ready.version, self._load_s)
        if first:
            log.info("%s: it is under this licence: %s", self._config.name, ready.license)
            self.first_ready.set_result(ready)

    def _deliver(self, message: Samples, now: float) -> None:
        job = self._jobs.active.get(message.id)
        if job is None or self._ready is None:
            return
        if len(message.pcm) % 4 or message.seq != job.frames:
            self._give_up_process(f"frame {message.seq} of job {message.id} is not the one that follows, or no float32")
            return
        samples = np.frombuffer(message.pcm, np.dtype("<f4")).astype(np.float32)
        if not np.isfinite(samples).all():
            log.error("%s: the audio of job %d is not finite", self._config.name, job.id)
            job.stream.finish(EngineFailed("Generation failed."))
            self._cancel(job)
            return
        rate = self._ready.sample_rate
        with self._lock:
            job.receive(len(samples), rate, now)
            self._pieces += 1
        job.stream.put(AudioFrame(samples, rate, job.utterance.chunk, message.seq, message.last))

    def _finish(self, message: Done, now: float) -> None:
        with self._lock:
            job = self._jobs.active.pop(message.id, None)
            if job is None or self._ready is None:
                return
            if job.produced and not message.cancelled:
                self._pace.count(job.working_s(now), job.produced / self._ready.sample_rate)
        self._out_of_memory = 0
        if message.truncated:
            log.warning("%s: a text was too long and its speech is cut off", self._config.name)
        job.stream.stats.steps = message.stats.tokens
        job.stream.stats.total_s = now - job.arrived
        job.stream.finish()

    def _fail(self, message: Failure) -> None:
        name = self._config.name
        if message.id is None:
            log.error("%s: %s: %s", name, message.code, message.message)
        else:
            job = self._jobs.active.get(message.id)
            if job is not None and message.code == "voice_unknown" and not job.voice_sent_again:
                # The process had no room left for it.
                job.voice_sent_again = True
                if isinstance(job.utterance.voice, RemoteVoice) and self._link is not None:
                    self._link.voices.discard(job.utterance.voice.key)
                    self._speak(self._link, job)
                    return
            with self._lock:
                job = self._jobs.active.pop(message.id, None)
            if job is not None:  # not the failure of a voice alone: those who speak with it hear of it
                log.warning("%s: job %d: %s: %s", name, message.id, message.code, message.message)
                self._out_of_memory = self._out_of_memory + 1 if message.code == "out_of_memory" else 0
                job.stream.finish(_refusal(message.code))
        if message.fatal or self._out_of_memory > 1:
            self._give_up_process(f"{message.code}: {message.message}", ending=message.fatal)

    def _give_up_process(self, reason: str, *, ending: bool = False) -> None:
        """Fail what the process was working on, and start it again later.

        ``ending``: it is about to end by itself, and its exit status may tell more.
        """
        now = self._clock()
        link, self._link = self._link, None
        ended, lines = "not started", []
        if link is not None:
            ended = link.end(_LAST_S if ending else 0.0)
            lines = link.last_lines
        if self._state is _State.READY and now - self._ready_at >= self._rules.steady:
            self._failures = 0
        wait = min(self._rules.backoff_max, self._rules.backoff * 2 ** min(self._failures, 16))
        self._failures += 1
        with self._lock:
            self._state, self._retry_at = _State.DOWN, now + wait
            self._down_since = now if self._down_since is None else self._down_since
            lost, self._jobs.active = list(self._jobs.active.values()), {}
        for job in lost:
            job.stream.finish(EngineFailed("The engine has stopped. Try again."))
        last = "".join(f"\n    {line}" for line in lines)
        log.error(
            "%s: the engine's process has failed: %s (%s); its last lines:%s", self._config.name, reason, ended, last
        )
        if self._ready is None:
            self._closing = True
            line = lines[-1] if lines else reason
            self.first_ready.set_exception(
                LoadError(f"{self._config.name}: the engine could not be loaded ({ended}): {line}")
            )
        else:
            log.info("%s: it starts again in %.1f s", self._config.name, wait)

    def _refuse_overdue(self, now: float) -> None:
        if self._down_since is None:
            return
        with self._lock:
            late = {j for j in self._jobs.waiting if now - max(j.arrived, self._down_since) > self._rules.patience}
            self._jobs.waiting = [job for job in self._jobs.waiting if job not in late]
            wait = max(1.0, self._retry_at + self._load_s - now)
        for job in late:
            job.stream.finish(Overloaded("The engine is being restarted. Try again later.", retry_after_s=wait))

    def _stop(self, link: ChildLink) -> None:
        self._link = None
        link.send(Shutdown(grace_s=self._rules.grace))
        link.end(self._rules.grace + 1)

    def _end(self) -> None:
        with self._lock:
            self._state = _State.ENDED
        active = list(self._jobs.active.values())
        self._fail_all(NotReady("The server is shutting down.", retry_after_s=5))
        if self._link is not None:
            for job in active:
                self._cancel(job)
            self._stop(self._link)
        if not self.first_ready.done():
            self.first_ready.set_exception(LoadError(f"{self._config.name}: the engine was stopped while it loaded."))
        shutil.rmtree(self._folder, ignore_errors=True)

    def _fail_all(self, reason: NotReady) -> None:
        with self._lock:
            self._refusal = self._refusal or reason
            jobs = [*self._jobs.active.values(), *self._jobs.waiting]
            self._jobs = JobQueue()
        for job in jobs:
            job.stream.finish(reason)

    def _set(self, state: _State) -> None:
        with self._lock:
            self._state = state


def emotion_options(utterance: Utterance) -> dict[str, Any]:
    """Return how an utterance is to sound, by the names of the job's fields; the clip apart."""
    emotion = utterance.emotion
    if emotion is None:
        return {}
    found = {
        "emo_vector": list(emotion.vector) if emotion.vector is not None else None,
        "emo_alpha": emotion.alpha,
        "use_emo_text": emotion.from_text,
        "emo_text": emotion.text,
        "use_random": emotion.random,
    }
    return {name: value for name, value in found.items() if value is not None}


def _refusal(code: str) -> EchoError:
    """Return the error for the client; the process's own message stays in the log."""
    match code:
        case "voice_rejected" | "voice_unknown":
            return BadRequest("voice: this engine cannot use the clip.", param="voice")
        case "voice_missing":
            return BadRequest("voice: must be given; this engine has none of its own.", param="voice")
        case "too_long":
            return TooLarge("The text is too long for this engine.")
        case "bad_option":
            return BadRequest("The engine does not take one of the options.")
        case _:
            return EngineFailed("Generation failed.")
