"""What is known of a job, as it lies on the disk."""

from __future__ import annotations

import time
from dataclasses import asdict
from enum import StrEnum
from typing import Any, Self

from pydantic import BaseModel, Field

from echo.jobs.book import Chapter, Piece
from echo.types import AudioFormat, Encoding, SpeechOptions, SpeechRequest, VoiceRef

#: Between the seeds of two pieces: the engine counts chunks from a request's seed.
SEED_STEP = 1000


class JobStatus(StrEnum):
    """Where a job is in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether nothing changes any more, but by ``resume`` after a failure."""
        return self in (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED)


class JobSpec(BaseModel):
    """How a job is to be spoken; ``has_clip``: the voice is an inline clip, in base64, that lies beside the job."""

    model: str | None = None
    voice: str | None = None
    has_clip: bool = False
    encoding: Encoding = Encoding.MP3
    sample_rate: int | None = None
    preset: str | None = None
    seed: int = 0
    speed: float = 1.0
    options: dict[str, Any] = Field(default_factory=dict)
    engine_options: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def of(cls, request: SpeechRequest, model: str | None, seed: int, *, has_clip: bool = False) -> Self:
        """Keep what a request asks for, but for its text."""
        return cls(
            model=model,
            voice=None if has_clip else request.voice.name,
            has_clip=has_clip,
            encoding=request.format.encoding,
            sample_rate=request.format.sample_rate,
            preset=request.preset,
            seed=seed,
            speed=request.speed,
            options={name: value for name, value in asdict(request.options).items() if value is not None},
            engine_options=dict(request.engine_options),
        )

    @property
    def format(self) -> AudioFormat:
        """The format of the result."""
        return AudioFormat(encoding=self.encoding, sample_rate=self.sample_rate)

    def request(self, text: str, number: int, clip: bytes | None) -> SpeechRequest:
        """Return the request that speaks piece ``number``, as 16-bit samples at the engine's rate."""
        return SpeechRequest(
            text=text,
            voice=VoiceRef(name=self.voice if clip is None else clip.decode()),
            format=AudioFormat(encoding=Encoding.PCM),
            options=SpeechOptions(**self.options),
            engine_options=self.engine_options,
            preset=self.preset,
            seed=self.seed + SEED_STEP * number,
            speed=self.speed,
            streaming=False,
            background=True,
        )


class JobError(BaseModel):
    """Why a job has failed."""

    code: str | None
    message: str


class Outline(BaseModel):
    """A chapter without its text: the number of its first piece, how many it has, and its seconds once it is made."""

    title: str
    first: int
    pieces: int
    characters: int
    audio_s: float = 0.0


class JobRecord(BaseModel):
    """A job but for its text and its audio.

    ``ready`` are the file names of the results that are made, ``keys`` those of objects in a bucket, by file name.
    """

    id: str
    owner: str
    title: str
    spec: JobSpec
    outline: list[Outline]
    #: The engine that has spoken what there is, and its rate.
    engine: str = ""
    sample_rate: int = 0
    status: JobStatus = JobStatus.QUEUED
    created_at: float = Field(default_factory=time.time)
    started_at: float | None = None
    finished_at: float | None = None
    error: JobError | None = None
    ready: list[str] = Field(default_factory=list)
    keys: dict[str, str] = Field(default_factory=dict)

    @property
    def pieces(self) -> int:
        """Of all chapters."""
        return sum(chapter.pieces for chapter in self.outline)

    @property
    def characters(self) -> int:
        """Of all chapters."""
        return sum(chapter.characters for chapter in self.outline)


class BookText(BaseModel):
    """The text of a job: pieces as (text, silence after it in milliseconds)."""

    pieces: list[tuple[str, int]]

    @classmethod
    def of(cls, chapters: list[Chapter]) -> Self:
        """Number the pieces of all chapters."""
        return cls(pieces=[(piece.text, piece.pause_ms) for chapter in chapters for piece in chapter.pieces])

    def piece(self, number: int) -> Piece:
        """Return a piece by its number."""
        return Piece(*self.pieces[number])


def outline(chapters: list[Chapter]) -> list[Outline]:
    """Return the chapters without their texts."""
    found: list[Outline] = []
    first = 0
    for chapter in chapters:
        count = len(chapter.pieces)
        found.append(Outline(title=chapter.title, first=first, pieces=count, characters=chapter.characters))
        first += count
    return found
