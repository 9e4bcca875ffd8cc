"""``POST`` and ``DELETE /v1/audio/voices``: clones, as OpenAI's SDK and vLLM-Omni's clients make them.

The list is ``GET /v1/audio/voices`` of ``routes/voices.py``.
"""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request

from compat.wire import in_client_terms
from echo.errors import BadRequest, EchoError, NotFound, TooLarge, VoiceNotFound
from echo.voices.metadata import VoiceMetadata
from routes.deps import RuntimeDep, client_of
from routes.errors import ERROR_RESPONSES
from routes.form import read_form
from routes.voices import uploaded_voice

router = APIRouter(tags=["voices"], responses=ERROR_RESPONSES)

#: Largest recording (OpenAI's and vLLM-Omni's limit).
MAX_SAMPLE_BYTES = 10 * 2**20

_FIELDS = {
    "displayName": "name",
    "voiceSamples": "audio_sample",
    "description": "speaker_description",
    "transcript": "ref_text",
}
_STRING = {"type": "string"}
_UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["audio_sample", "consent", "name"],
                    "properties": {
                        "audio_sample": {"type": "string", "format": "binary"},
                        "consent": _STRING,
                        "name": _STRING,
                        "ref_text": _STRING,
                        "speaker_description": _STRING,
                        "type": {"type": "string", "enum": ["audio_sample"]},
                    },
                }
            }
        },
    }
}


@router.post("/v1/audio/voices", openapi_extra=_UPLOAD)
async def create_voice(request: Request, runtime: RuntimeDep) -> dict[str, Any]:
    """Make a voice of a recording; one of the same name is replaced."""
    runtime.cloning.require_enabled()
    async with read_form(request) as form:
        if form.text("type") not in ("", "audio_sample"):
            raise BadRequest("type: must be audio_sample; voices cannot be made from a description.", param="type")
        sample = await form.file("audio_sample")
        metadata = VoiceMetadata(
            display_name=form.required("name"),
            consent=form.required("consent"),
            transcript=form.text("ref_text"),
            description=form.text("speaker_description"),
        )
    if len(sample) > MAX_SAMPLE_BYTES:
        raise TooLarge(f"audio_sample: at most {MAX_SAMPLE_BYTES} bytes are allowed.", param="audio_sample")
    try:
        voice, _ = await runtime.cloning.publish(
            metadata, lambda: [sample], nbytes=len(sample), client=client_of(request)
        )
    except EchoError as error:
        raise in_client_terms(error, _FIELDS) from None
    entry = await asyncio.to_thread(uploaded_voice, voice) or {}
    # Both answers in one: OpenAI's object, and vLLM-Omni's under ``voice``.
    return {
        "id": voice.id,
        "object": "audio.voice",
        "created_at": entry.get("created_at", 0),
        "name": voice.name,
        "type": "audio_sample",
        "success": True,
        "voice": entry,
    }


@router.delete("/v1/audio/voices/{voice}")
async def delete_voice(voice: str, runtime: RuntimeDep) -> dict[str, Any]:
    """Delete a voice that was made by an upload, by its id or by the name it was uploaded under."""
    try:
        voice_id = await runtime.cloning.delete(voice)
    except VoiceNotFound as error:
        raise NotFound(error.message, code=error.code, param="voice") from None
    return {
        "id": voice_id,
        "object": "audio.voice.deleted",
        "deleted": True,
        "success": True,
        "message": f"The voice {voice_id} has been deleted.",
    }
