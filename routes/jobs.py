"""Long texts as jobs: ``/v1/audio/jobs``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from pydantic import Field, StrictStr
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response, StreamingResponse

from echo.audio.encode import MEDIA_TYPES, open_output, supported_encodings
from echo.errors import BadRequest, FeatureDisabled
from echo.jobs.book import LONGEST_TITLE, PIECE_CHARS, chapters
from echo.jobs.jobs import Jobs, chapter_name, whole_name
from echo.jobs.record import JobRecord, JobSpec, JobStatus
from echo.settings import Settings
from echo.types import AudioFormat, Encoding, SpeechRequest, VoiceRef
from routes import sse
from routes.body import SpeechBody, flattened
from routes.deps import RuntimeDep, client_of
from routes.errors import ERROR_RESPONSES, validated
from routes.form import BESIDES_AUDIO, read_form
from routes.format import named_encoding
from routes.json import read_json
from routes.response import STREAM_HEADERS
from routes.surface import Surface

router = APIRouter(prefix="/v1/audio/jobs", tags=["jobs"], responses=ERROR_RESPONSES)

#: Bytes that a character of a file takes at most.
_CHAR_BYTES = 4
#: Seconds without news after which a comment keeps the connection of a listener open.
_PING_S = 10.0
#: A longer voice is no name but a clip in base64.
_LONGEST_NAME = 255
#: Fields of a form whose values are text even where they look like numbers.
_TEXTS = frozenset(["model", "voice", "preset", "response_format", "title", "text_format"])


def surface(settings: Settings) -> Surface:
    """Return the routes of jobs."""
    limit = _CHAR_BYTES * settings.jobs_max_chars + settings.max_body_bytes + BESIDES_AUDIO
    return Surface(router=router, body_limits={"/v1/audio/jobs": limit})


class JobBody(SpeechBody):
    """The body of a job: that of POST /v1/audio/speech, but for what is about streaming, and these."""

    title: Annotated[StrictStr, Field(max_length=LONGEST_TITLE)] | None = Field(None, description="Shown in lists.")
    text_format: Literal["plain", "markdown"] = Field(
        "plain", description='Chapters begin at paragraphs such as "Chapter 3", or at Markdown\'s headings.'
    )


async def _jobs(runtime: RuntimeDep) -> Jobs:
    if runtime.jobs is None:
        raise FeatureDisabled("Jobs are switched off on this server (ECHO_JOBS_DIR).")
    return runtime.jobs


JobsDep = Annotated[Jobs, Depends(_jobs)]


async def _record(id: str, request: Request, jobs: JobsDep) -> JobRecord:
    return jobs.get(id, client_of(request))


RecordDep = Annotated[JobRecord, Depends(_record)]

_SCHEMA: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": JobBody.model_json_schema()},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                    "additionalProperties": {"type": "string"},
                }
            },
        },
    }
}


@router.post("", status_code=202, openapi_extra=_SCHEMA)
async def create_job(request: Request, runtime: RuntimeDep, jobs: JobsDep) -> Response:
    """Queue a long text, as JSON or as a form with the text as ``file`` (.txt or .md)."""
    body = validated(JobBody, await _fields(request))
    service = runtime.services.of(body.model)
    speech = SpeechRequest(
        text="",
        voice=VoiceRef(name=body.voice),
        format=AudioFormat(encoding=_encoding(body.response_format), sample_rate=body.sample_rate),
        options=body.options(),
        engine_options=body.others(),
        preset=body.preset,
        speed=1.0 if body.speed is None else body.speed,
        streaming=False,
        client=client_of(request),
    )
    # Whatever would make every piece fail is told now.
    service.plan(speech)
    service.options(speech)
    open_output(speech.format, service.engine.info.sample_rate, speech.speed).close()
    await service.voice_state(speech.voice, speech.client)
    most = min(PIECE_CHARS, runtime.settings.max_input_chars)
    markdown = body.text_format == "markdown"
    parts = await asyncio.to_thread(chapters, body.input, markdown=markdown, piece_chars=most)
    clip = body.voice.encode() if body.voice is not None and len(body.voice) > _LONGEST_NAME else None
    seed = service.seed(SpeechRequest(text="", seed=body.seed))
    spec = JobSpec.of(speech, body.model, seed, has_clip=clip is not None)
    title = body.title or next((part.title for part in parts if part.title), "")
    runtime.quotas.spend(client_of(request), requests=1)
    field = "file" if _is_form(request) else "input"
    record = await jobs.create(client_of(request), title, spec, parts, clip, field=field)
    return JSONResponse(described(jobs, record), 202, headers={"Location": f"/v1/audio/jobs/{record.id}"})


@router.get("")
async def list_jobs(request: Request, jobs: JobsDep) -> dict[str, Any]:
    """The client's jobs, the newest first."""
    return {"object": "list", "data": [described(jobs, record) for record in jobs.list(client_of(request))]}


@router.get("/{id}")
async def get_job(record: RecordDep, jobs: JobsDep) -> dict[str, Any]:
    """How far a job is."""
    return described(jobs, record)


@router.get("/{id}/events", response_class=Response, responses={200: {"content": {sse.MEDIA_TYPE: {}}}})
async def follow_job(record: RecordDep, jobs: JobsDep) -> Response:
    """The job as server-sent events, at once and whenever it has changed, until it ends."""

    async def events() -> AsyncIterator[bytes]:
        async for changed in jobs.changes(record, _PING_S):
            if not changed:
                yield b": ping\n\n"
                continue
            yield b"event: audio.job\ndata: " + json.dumps(described(jobs, record)).encode() + b"\n\n"

    return StreamingResponse(events(), headers={"Content-Type": sse.MEDIA_TYPE, **STREAM_HEADERS})


@router.post("/{id}/pause")
async def pause_job(record: RecordDep, jobs: JobsDep) -> dict[str, Any]:
    """Stop where it is; ``resume`` goes on from there."""
    await jobs.pause(record)
    return described(jobs, record)


@router.post("/{id}/resume")
async def resume_job(record: RecordDep, jobs: JobsDep) -> dict[str, Any]:
    """Go on after a pause or a failure, with what there is already."""
    await jobs.resume(record)
    return described(jobs, record)


@router.post("/{id}/cancel")
async def cancel_job(record: RecordDep, jobs: JobsDep) -> dict[str, Any]:
    """End a job for good; chapters that are done stay."""
    await jobs.cancel(record)
    return described(jobs, record)


@router.delete("/{id}")
async def delete_job(record: RecordDep, jobs: JobsDep) -> dict[str, Any]:
    """Remove a job with all that it has made."""
    await jobs.delete(record)
    return {"id": record.id, "object": "audio.job", "deleted": True}


@router.get("/{id}/content", response_class=Response)
async def get_content(record: RecordDep, jobs: JobsDep) -> Response:
    """The whole result: the file, ranges of it too, or a redirection to the bucket."""
    return _file(jobs, record, None, whole_name(record))


@router.get("/{id}/chapters/{number}/content", response_class=Response)
async def get_chapter(record: RecordDep, jobs: JobsDep, number: int) -> Response:
    """A chapter, from 1, as soon as it is done."""
    return _file(jobs, record, number - 1, f"{number:03d}." + whole_name(record).rpartition(".")[2])


def described(jobs: Jobs, record: JobRecord) -> dict[str, Any]:
    """Return a job as clients see it; times in ISO 8601, UTC."""
    progress = jobs.progress(record)
    base = f"/v1/audio/jobs/{record.id}"
    return {
        "id": record.id,
        "object": "audio.job",
        "status": record.status,
        "title": record.title,
        "model": record.spec.model,
        "voice": record.spec.voice,
        "response_format": record.spec.encoding,
        "seed": record.spec.seed,
        "created_at": _time(record.created_at),
        "started_at": _time(record.started_at),
        "finished_at": _time(record.finished_at),
        "progress": {
            "characters": progress.characters,
            "total_characters": record.characters,
            "pieces": progress.done,
            "total_pieces": record.pieces,
            "audio_seconds": round(sum(progress.audio_s), 3),
        },
        "chapters": [
            {
                "number": number + 1,
                "title": chapter.title,
                "characters": chapter.characters,
                "audio_seconds": round(progress.audio_s[number], 3),
                "url": f"{base}/chapters/{number + 1}/content"
                if chapter_name(record, number) in record.ready
                else None,
            }
            for number, chapter in enumerate(record.outline)
        ],
        "url": f"{base}/content" if record.status is JobStatus.COMPLETED else None,
        "error": record.error.model_dump() if record.error is not None else None,
    }


def _is_form(request: Request) -> bool:
    return request.headers.get("content-type", "").startswith("multipart/form-data")


async def _fields(request: Request) -> Mapping[str, Any]:
    """The fields of a body, whether it is JSON or a form."""
    if not _is_form(request):
        return flattened(await read_json(request))
    async with read_form(request) as form:
        file, data = await form.named_file("file")
        fields = {name: _typed(name, text) for name, text in form.texts().items()}
    try:
        fields["input"] = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadRequest("file: must be a text in UTF-8.", param="file") from None
    if not data.strip():
        raise BadRequest("file: must not be empty.", param="file", code="missing_required_parameter")
    if file.lower().endswith((".md", ".markdown")):
        fields.setdefault("text_format", "markdown")
    return fields


def _typed(name: str, text: str) -> object:
    """A form's field as JSON would have it."""
    if name in _TEXTS:
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _encoding(name: str | None) -> Encoding:
    available = supported_encodings()
    if name is None:
        return Encoding.MP3 if Encoding.MP3 in available else Encoding.WAV
    return named_encoding(name, available)


def _file(jobs: Jobs, record: JobRecord, chapter: int | None, name: str) -> Response:
    result = jobs.result(record, chapter)
    if isinstance(result, str):
        return RedirectResponse(result, 307)
    title = "".join(c if c.isalnum() or c in " -_" else "_" for c in record.title).strip() or record.id
    shown = f"{title} {name}" if chapter is not None else f"{title}.{name.rpartition('.')[2]}"
    return FileResponse(result, media_type=MEDIA_TYPES[record.spec.encoding], filename=shown)


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
