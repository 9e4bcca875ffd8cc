"""The utterances of a remote engine: which is next, how much it may send, and how long a new one would wait."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from echo.stream import FrameStream
from echo.types import LATENT_S, Utterance

#: A listener who has heard nothing yet counts as waiting for audio from so many seconds after the request on.
_FIRST_SOUND_S = 1.0
#: Weight of a job relative to the next one in the measured pace.
_DECAY = 0.8
#: The speaker tag that the text splitter puts before a chunk is Echo-TTS's; another engine would read it out.
_TAG = re.compile(r"^\[S[0-9]{1,3}\]\s*")


@dataclass(eq=False, slots=True, kw_only=True)
class Job:
    """One utterance. Clock times in seconds; ``granted`` and ``produced`` in samples."""

    id: int
    utterance: Utterance
    stream: FrameStream
    arrived: float
    begun: float | None = None
    granted: int = 0
    produced: int = 0
    frames: int = 0
    cancel_sent: bool = False
    voice_sent_again: bool = False
    #: Since when it may send nothing, and how long it was so before.
    blocked_at: float | None = None
    blocked_s: float = 0.0

    @property
    def text(self) -> str:
        """What the engine is to speak."""
        return _TAG.sub("", self.utterance.text)

    @property
    def deadline(self) -> float:
        """When its listener needs audio."""
        underrun = self.utterance.listener.underrun_at()
        return self.arrived + _FIRST_SOUND_S if underrun is None else underrun

    def begin(self, now: float, credit: int) -> None:
        """It goes to the process, which may send ``credit`` samples."""
        self.begun, self.granted = now, credit
        self.stream.stats.queue_s = now - self.arrived

    def receive(self, samples: int, rate: int, now: float) -> None:
        """Count audio that has come."""
        listener, stats = self.utterance.listener, self.stream.stats
        if not self.frames:
            stats.first_frame_s = now - self.arrived
        if listener.started is None:
            listener.started = now
        listener.produced_s += samples / rate
        self.frames += 1
        stats.blocks += 1
        self.produced += samples
        if self.produced >= self.granted and self.blocked_at is None:
            self.blocked_at = now

    def refill(self, window: int, least: int, now: float) -> int:
        """Return the samples by which ``granted`` grows, so that ``window`` are ahead of the listener.

        0 where it is less than ``least``.
        """
        more = self.stream.consumed_samples + window - self.granted
        if more < least:
            return 0
        self.granted += more
        if self.blocked_at is not None and self.produced < self.granted:
            self.blocked_s += now - self.blocked_at
            self.blocked_at = None
        return more

    def working_s(self, now: float) -> float:
        """Seconds since it began, without those in which it was not allowed to send."""
        blocked = self.blocked_s + (now - self.blocked_at if self.blocked_at is not None else 0.0)
        return now - self.begun - blocked if self.begun is not None else 0.0

    def remaining_s(self, rate: int) -> float:
        """Estimated seconds of audio still to come."""
        return max(0.0, expected_s(self.utterance) - self.produced / rate)


class Pace:
    """Moving average of the seconds that a second of audio takes."""

    def __init__(self) -> None:
        self._seconds = self._audio_s = 0.0

    def count(self, seconds: float, audio_s: float) -> None:
        """Add a job that took ``seconds`` and made ``audio_s`` of audio."""
        self._seconds = _DECAY * self._seconds + seconds
        self._audio_s = _DECAY * self._audio_s + audio_s

    @property
    def seconds_per_second(self) -> float:
        """Real-time factor; 0 before the first job."""
        return self._seconds / self._audio_s if self._audio_s else 0.0


@dataclass(slots=True)
class JobQueue:
    """Waiting jobs, and those in the process."""

    waiting: list[Job] = field(default_factory=list)
    active: dict[int, Job] = field(default_factory=dict)

    def drop_cancelled(self) -> set[Job]:
        """Take out and return the waiting jobs that nobody listens to."""
        gone = {job for job in self.waiting if job.stream.cancelled}
        if gone:
            self.waiting = [job for job in self.waiting if job not in gone]
        return gone

    def take(self) -> Job:
        """Make the most urgent waiting job active."""
        job = min(self.waiting, key=lambda job: (job.deadline, job.id))
        self.waiting.remove(job)
        self.active[job.id] = job
        return job

    def wait_s(self, concurrent: int, rate: int, seconds_per_second: float) -> float:
        """Estimate how long a job that came now would wait for its turn, ``concurrent`` being done at a time."""
        jobs = [*self.active.values(), *self.waiting]
        if len(jobs) < concurrent:
            return 0.0
        return sum(job.remaining_s(rate) for job in jobs) * seconds_per_second / concurrent


def expected_s(utterance: Utterance) -> float:
    """Return how long an utterance probably takes to speak, in seconds."""
    return utterance.plan.latents * LATENT_S if utterance.estimate_s is None else utterance.estimate_s
