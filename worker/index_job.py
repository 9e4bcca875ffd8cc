"""The IndexTTS job: everything at the top level, emotions, chunk sizes and pauses, and a stream of pieces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, StrictStr

from echo.emotion import asked, check_one
from echo.steps import seed_or_drawn
from echo.text.worker_chunks import chunk_by_chars
from echo.types import Emotion, VoiceRef
from worker.echo_job import EchoParameters
from worker.fields import MAX_SEED, Int, JobModel, Number, job_field, unknown, validated
from worker.job import Job, Joint, session_name

_Share = Annotated[Number, Field(ge=0, le=1)]


class IndexJob(JobModel):
    """The fields of an IndexTTS job."""

    emo_audio_prompt: StrictStr | None = job_field(None, "must be the name of a file in the voices folder, or null.")
    emo_vector: list[_Share] | None = job_field(
        None,
        "must be 8 numbers from 0 to 1: happy, angry, sad, afraid, disgusted, melancholic, surprised, calm.",
        min_length=8,
        max_length=8,
    )
    emo_alpha: _Share = job_field(1.0, "must be a number from 0 to 1.")
    use_emo_text: bool = job_field(False, "must be true or false.")
    emo_text: StrictStr | None = job_field(None, "must be a text, or null.")
    use_random: bool = job_field(False, "must be true or false.")
    enable_chunking: bool = job_field(True, "must be true or false.")
    max_chars_per_chunk: Int = job_field(300, "must be an integer from 50 to 1000.", ge=50, le=1000)
    enable_crossfade: bool = job_field(True, "must be true or false.")
    crossfade_ms: Number = job_field(140, "must be a number from 0 to 1000.", ge=0, le=1000)
    chunk_pause_ms: Number = job_field(300, "must be a number from 0 to 2000.", ge=0, le=2000)
    output_format: Literal["pcm_16"] = job_field("pcm_16", "must be pcm_16.")
    stream_max_chars_per_chunk: Int = job_field(150, "must be an integer from 20 to 1000.", ge=20, le=1000)
    stream_crossfade_ms: Number | None = job_field(None, "must be a number from 0 to 1000, or null.", ge=0, le=1000)
    seed: Int | None = job_field(None, f"must be an integer from 0 to {MAX_SEED}.", ge=0, le=MAX_SEED)

    @property
    def joint(self) -> Joint:
        """At the same joint a pause excludes a cross-fade; a stream has a pause only where the client asks for it."""
        fade = self.crossfade_ms
        if self.stream and self.stream_crossfade_ms is not None:
            fade = self.stream_crossfade_ms
        pause = 0 if self.stream and "chunk_pause_ms" not in self.model_fields_set else self.chunk_pause_ms
        return Joint(crossfade=fade if self.enable_crossfade and not pause else 0.0, pause=pause)


#: Fields that this schema adds to those of every job.
INDEX_FIELDS = frozenset(IndexJob.model_fields) - frozenset(JobModel.model_fields)
#: Those of them that the Echo job has nowhere.
INDEX_ONLY = INDEX_FIELDS - frozenset(EchoParameters.model_fields)


def index_job(data: Mapping[str, Any]) -> Job:
    """Read an IndexTTS job; raises BadRequest that names the field."""
    job = validated(IndexJob, data)
    emotion = _emotion(job)
    check_one(emotion)
    size = job.stream_max_chars_per_chunk if job.stream else job.max_chars_per_chunk
    return Job(
        chunks=tuple(chunk_by_chars(job.text, size if job.enable_chunking else 0)),
        voice=job.speaker_voice or None,
        no_voice=VoiceRef(),
        session_id=session_name(job.session_id),
        seed=seed_or_drawn(job.seed),
        stream=job.stream,
        joint=job.joint,
        emotion=emotion if asked(emotion) else None,
        warnings=tuple(f"{name}: unknown, ignored" for name in unknown(data, IndexJob, besides=frozenset({"action"}))),
    )


def _emotion(job: IndexJob) -> Emotion:
    return Emotion(
        clip=VoiceRef(name=job.emo_audio_prompt) if job.emo_audio_prompt is not None else None,
        vector=tuple(job.emo_vector) if job.emo_vector is not None else None,
        alpha=job.emo_alpha,
        from_text=job.use_emo_text,
        text=job.emo_text,
        random=job.use_random,
    )
