"""The routes of an XTTS server: speak, stream, list speakers, take a clone upload."""

from __future__ import annotations

import asyncio
import contextlib

import numpy as np
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from compat.xtts.errors import DETAIL_RESPONSES
from compat.xtts.openapi import IN_BODY, IN_QUERY, UPLOAD, WAV
from compat.xtts.schemas import SpeakBody
from echo.audio.wav import pcm_file
from echo.errors import VoiceNotFound
from echo.runtime import Runtime
from echo.types import SAMPLE_RATE, AudioFormat, Encoding, SpeechRequest, VoiceRef
from echo.voices.metadata import VoiceMetadata
from echo.voices.names import DEFAULT_WORKSPACE, SEPARATOR, squeeze
from routes.deps import RuntimeDep, client_of
from routes.form import read_form
from routes.json import read_json
from routes.response import answer_streamed, answer_whole

router = APIRouter(tags=["XTTS"], responses=DETAIL_RESPONSES)

#: Mantella tries to switch models unless the list holds one of XTTS's official names.
_MODELS = ("v2.0.2",)
#: Length of the answer to a keep-alive.
_PING_S = 0.1


@router.post("/tts_to_audio", response_class=Response, responses=WAV, openapi_extra=IN_BODY)
async def tts_to_audio(request: Request, runtime: RuntimeDep) -> Response:
    """Speak a text; the answer is one complete WAV file."""
    body = SpeakBody.parse(await read_json(request))
    if body.is_ping:
        return _silence(runtime)
    speech = await _to_request(runtime, body, client_of(request), unsized=False)
    return await answer_whole(request, runtime.service, speech, headers=_headers(body))


@router.post("/tts_stream", response_class=Response, responses=WAV, openapi_extra=IN_BODY)
async def tts_stream(request: Request, runtime: RuntimeDep) -> Response:
    """Speak a text; WAV is sent as it is made."""
    return await _stream(request, runtime, SpeakBody.parse(await read_json(request)))


@router.get("/tts_stream", response_class=Response, responses=WAV, openapi_extra=IN_QUERY)
async def tts_stream_query(request: Request, runtime: RuntimeDep) -> Response:
    """The same with the fields in the query, for a browser's audio element."""
    return await _stream(request, runtime, SpeakBody.parse(dict(request.query_params)))


@router.get("/speakers_list")
def speakers_list(runtime: RuntimeDep) -> dict[str, dict[str, list[str]]]:
    """Names of the voices under a language, as Mantella reads them."""
    return {"en": {"speakers": list(_names(runtime).values())}}


@router.get("/speakers")
def speakers(runtime: RuntimeDep) -> list[dict[str, str]]:
    """The voices as SillyTavern reads them."""
    return [{"name": name, "voice_id": name, "preview_url": ""} for name in _names(runtime).values()]


@router.get("/get_models_list")
async def get_models_list() -> list[str]:
    """The names of models that clients expect to find."""
    return list(_MODELS)


@router.post("/set_tts_settings")
async def set_tts_settings() -> dict[str, str]:
    """Accept any settings; they are another model's and change nothing."""
    return {"message": "Settings accepted; this model has none of them."}


@router.post("/switch_model")
async def switch_model() -> dict[str, str]:
    """Accept any model name; there is one model."""
    return {"message": "There is one model, and it is loaded."}


@router.post("/create_and_store_latents", openapi_extra=UPLOAD)
async def create_and_store_latents(request: Request, runtime: RuntimeDep) -> dict[str, str]:
    """Make a voice of an uploaded recording: a clone in the default workspace."""
    runtime.cloning.require_enabled()
    async with read_form(request) as form:
        name, language = form.required("speaker_name"), form.text("language")
        sample = await form.file("wav_file")
    metadata = VoiceMetadata(display_name=name, lang=language)
    voice, _ = await runtime.cloning.publish(metadata, lambda: [sample], nbytes=len(sample), client=client_of(request))
    names = await asyncio.to_thread(_names, runtime)
    return {"message": "The voice is ready.", "speaker_name": names.get(voice.id, voice.id), "language": language}


async def _stream(request: Request, runtime: Runtime, body: SpeakBody) -> Response:
    if body.is_ping:
        return _silence(runtime)
    speech = await _to_request(runtime, body, client_of(request), unsized=True)
    return await answer_streamed(request, runtime.service, speech, headers=_headers(body))


async def _to_request(runtime: Runtime, body: SpeakBody, client: str, *, unsized: bool) -> SpeechRequest:
    # The streaming block shape for whole files too: games send short lines, whose blocks can stop early.
    return SpeechRequest(
        text=body.text,
        voice=await asyncio.to_thread(_voice, runtime, body.voice),
        format=AudioFormat(encoding=Encoding.WAV, unsized=unsized),
        speed=1.0 if body.speed is None else body.speed,
        client=client,
    )


def _headers(body: SpeakBody) -> dict[str, str]:
    if body.file_name is None:
        return {}
    return {"Content-Disposition": f'attachment; filename="{body.file_name}"'}


def _voice(runtime: Runtime, name: str) -> VoiceRef:
    """Return the voice of a name; one that was uploaded here also goes by the name it was uploaded under."""
    for workspace in (None, DEFAULT_WORKSPACE):  # in this order, so that no upload takes another voice's name
        with contextlib.suppress(VoiceNotFound):
            return VoiceRef(name=runtime.voices.find(name, workspace=workspace).id)
    if not name:
        raise VoiceNotFound(name)
    return VoiceRef(name=name)  # may still be one of the names that stand for the default voice


def _names(runtime: Runtime) -> dict[str, str]:
    """Return the name of every voice by its id: that of an upload is short unless another voice has it."""
    voices = runtime.voices.list()
    taken = {squeeze(voice.id) for voice in voices}
    names = {}
    for voice in voices:
        short = voice.id.partition(SEPARATOR)[2] if voice.workspace == DEFAULT_WORKSPACE else ""
        names[voice.id] = short if short and squeeze(short) not in taken else voice.id
    return names


def _silence(runtime: Runtime) -> Response:
    rate = runtime.info.sample_rate if runtime.info else SAMPLE_RATE
    return Response(pcm_file(np.zeros(int(_PING_S * rate), np.float32), rate), media_type="audio/wav")
