"""The Echo job: text, voice and ``parameters``, with the defaults and bounds of the old Echo worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel

from echo.errors import BadRequest
from echo.steps import seed_or_drawn
from echo.text.worker_chunks import chunk_by_chars_and_duration
from echo.types import MAX_LATENTS, MAX_LAYERS, SpeechOptions, VoiceRef
from worker.fields import MAX_SEED, Int, JobModel, Number, job_field, unknown, validated
from worker.job import Job, Joint, session_name

#: The old worker's cross-fade, and the silence that it brings the end of a chunk to.
_CROSSFADE_MS, _SILENCE_MS = 100.0, 500.0


def _zero_or_enough(count: int) -> int:
    if count != 0 and not 50 <= count <= 1000:
        raise ValueError("out of range")
    return count


class EchoParameters(BaseModel):
    """``parameters`` of an Echo job."""

    num_steps: Int = job_field(40, "must be an integer from 1 to 100.", ge=1, le=100)
    cfg_scale_text: Number = job_field(3.0, "must be a number from 1 to 10, or 0 for none.", ge=0, le=10)
    cfg_scale_speaker: Number = job_field(8.0, "must be a number from 1 to 15, or 0 for none.", ge=0, le=15)
    cfg_min_t: Number = job_field(0.5, "must be a number from 0 to 1.", ge=0, le=1)
    cfg_max_t: Number = job_field(1.0, "must be a number from 0 to 1.", ge=0, le=1)
    truncation_factor: Number | None = job_field(None, "must be a number above 0, or null.", gt=0)
    rescale_k: Number | None = job_field(None, "must be a number above 0, or null.", gt=0)
    rescale_sigma: Number | None = job_field(None, "must be a number above 0, or null.", gt=0)
    speaker_kv_scale: Number | None = job_field(None, "must be a number from 1 to 2, or null.", ge=1, le=2)
    speaker_kv_max_layers: Int | None = job_field(
        None, f"must be an integer from 0 to {MAX_LAYERS}, or null.", ge=0, le=MAX_LAYERS
    )
    speaker_kv_min_t: Number | None = job_field(None, "must be a number from 0 to 1, or null.", ge=0, le=1)
    sequence_length: Int = job_field(
        MAX_LATENTS, f"must be an integer from 64 to {MAX_LATENTS}.", ge=64, le=MAX_LATENTS
    )
    seed: Int | None = job_field(None, f"must be an integer from 0 to {MAX_SEED}.", ge=0, le=MAX_SEED)
    max_chars_per_chunk: Annotated[Int, AfterValidator(_zero_or_enough)] = job_field(
        300, "must be an integer from 50 to 1000, or 0 for no chunking."
    )
    enable_crossfade: bool = job_field(True, "must be true or false.")
    normalize_boundaries: bool = job_field(True, "must be true or false.")
    target_duration_seconds: Number = job_field(10.0, "must be a number from 1 to 30.", ge=1, le=30)

    def options(self, *, given: bool) -> SpeechOptions:
        """Return the sampler's options: only those the client gave, or all of them."""
        names = {f.name for f in fields(SpeechOptions)} & set(type(self).model_fields)
        return SpeechOptions(**{n: getattr(self, n) for n in names if not given or n in self.model_fields_set})


def echo_job(data: Mapping[str, Any]) -> Job:
    """Read an Echo job; raises BadRequest that names the field."""
    extra = data.get("parameters") or {}
    if not isinstance(extra, Mapping):
        raise BadRequest("parameters must be an object.", param="parameters")
    top = validated(JobModel, {"stream": extra.get("stream"), **data})
    parameters = validated(EchoParameters, extra)
    if parameters.cfg_min_t > parameters.cfg_max_t:
        raise BadRequest("cfg_min_t must be at most cfg_max_t.", param="cfg_min_t")
    strange = unknown(data, JobModel, besides=frozenset({"parameters", "action"}))
    odd = unknown(extra, EchoParameters, besides=frozenset({"stream"}))
    return Job(
        chunks=tuple(
            chunk_by_chars_and_duration(top.text, parameters.max_chars_per_chunk, parameters.target_duration_seconds)
        ),
        voice=top.speaker_voice or None,
        no_voice=VoiceRef(name="none"),
        session_id=session_name(top.session_id),
        seed=seed_or_drawn(parameters.seed),
        stream=top.stream,
        joint=Joint(
            crossfade=_CROSSFADE_MS if parameters.enable_crossfade else 0.0,
            silence=_SILENCE_MS if parameters.normalize_boundaries else None,
        ),
        options=parameters.options(given=True),
        defaults=parameters.options(given=False),
        warnings=tuple(f"{name}: unknown, ignored" for name in [*strange, *(f"parameters.{name}" for name in odd)]),
        reports_stream=True,
    )
