"""Speak in one piece, load voices before they are needed, and warm up, over HTTP."""

from __future__ import annotations

import asyncio
import base64
import time

from fastapi import APIRouter
from pydantic import RootModel, StrictStr
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from compat.bodies import documented
from compat.chatterbox.audio import latency, milliseconds
from compat.chatterbox.errors import DETAIL_RESPONSES, UnknownVoice
from compat.chatterbox.schemas import (
    ENGINE,
    MULAW,
    REALTIME,
    OutputFormat,
    SpeakBody,
    check_voice_id,
    preset_name,
)
from echo.audio.frames import TelephoneFrames
from echo.errors import BadRequest, VoiceNotFound
from echo.runtime import Runtime
from echo.service import SpeechService, SpeechStream
from echo.types import AudioFormat, Encoding, SpeechRequest, VoiceRef
from routes.deps import RuntimeDep, client_of
from routes.errors import validated
from routes.json import read_json
from routes.response import answer_whole, until_disconnect

router = APIRouter(tags=["Chatterbox"], responses=DETAIL_RESPONSES)

#: Voices that one request may have loaded: each new one takes up to seconds of the device.
MAX_PRELOADED = 100

_FILES = {OutputFormat.MULAW: MULAW, OutputFormat.WAV: AudioFormat(encoding=Encoding.WAV)}


class VoiceIds(RootModel[list[StrictStr]]):
    """The ids of voices that will be needed."""


@router.post("/synthesize", openapi_extra=documented(SpeakBody))
async def synthesize(request: Request, runtime: RuntimeDep) -> Response:
    """Speak a text; mu-law comes as a list of frames, WAV as one file."""
    body = SpeakBody.parse(await read_json(request))
    service = runtime.services.of(ENGINE)
    speech = body.to_request(service.presets, _FILES[body.format], client_of(request))

    def render(stream: SpeechStream, audio: bytes) -> Response:
        return JSONResponse(_answer(body.format, stream, audio, service.engine.info.backend))

    try:
        return await answer_whole(request, service, speech, render=render)
    except VoiceNotFound:
        raise UnknownVoice(body.voice_id) from None


@router.post("/preload", openapi_extra=documented(VoiceIds))
async def preload(request: Request, runtime: RuntimeDep) -> Response:
    """Read and encode voices, so that their first use takes no longer than any other."""
    ids = validated(VoiceIds, await read_json(request)).root
    if len(ids) > MAX_PRELOADED:
        raise BadRequest(f"At most {MAX_PRELOADED} voices may be loaded by one request.")
    return await until_disconnect(request, _preloaded(runtime, ids, client_of(request)))


@router.post("/warmup")
async def warmup(request: Request, runtime: RuntimeDep, voice_id: str, preset: str = REALTIME) -> Response:
    """Speak a short text with a voice and a preset, unheard."""
    check_voice_id(voice_id)
    started = time.monotonic()
    service = runtime.services.of(ENGINE)
    speech = SpeechRequest(
        text=runtime.settings.warmup_text,
        voice=VoiceRef(name=voice_id),
        format=MULAW,
        preset=preset_name(service.presets, preset, REALTIME),
        client=client_of(request),
    )
    try:
        await until_disconnect(request, service.collect(speech))
    except VoiceNotFound:
        raise UnknownVoice(voice_id) from None
    return JSONResponse({"voice_id": voice_id, "warmup_ms": milliseconds(time.monotonic() - started), "ready": True})


def _answer(output_format: OutputFormat, stream: SpeechStream, audio: bytes, backend: str) -> dict[str, object]:
    sound: str | list[str]
    if output_format is OutputFormat.MULAW:
        frames = TelephoneFrames()
        sound = [_base64(frame) for frame in [*frames.push(audio), *frames.finish()]]
    else:
        sound = _base64(audio)
    return {
        "audio": sound,
        "duration_seconds": round(stream.output.duration_s, 3),
        "sample_rate": stream.output.sample_rate,
        "format": output_format.value,
        "total_ms": milliseconds(stream.stats.total_s or 0.0),
        "latency": latency(stream.stats),
        "backend": backend,
    }


async def _preloaded(runtime: Runtime, ids: list[str], client: str) -> Response:
    service = runtime.services.of(ENGINE)
    preloaded = {voice_id: await _load(service, voice_id, client) for voice_id in ids}
    cache, fetched = runtime.cache.stats(), runtime.voices.fetched
    sizes = {
        "waveform_cache_size": await asyncio.to_thread(lambda: fetched.count if fetched is not None else 0),
        "path_cache_size": cache.paths,
        "embedding_cache_size": cache.entries,
    }
    return JSONResponse({"preloaded": preloaded, "cache_stats": sizes})


async def _load(service: SpeechService, voice_id: str, client: str) -> bool:
    """Load a voice; False where there is none of that id, or none that can be used."""
    try:
        check_voice_id(voice_id)
        await service.voice_state(VoiceRef(name=voice_id), client)
    except (VoiceNotFound, BadRequest):
        return False
    return True


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
