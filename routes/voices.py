"""Lists of voices, in the forms that OpenAI-style clients read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter

from echo.voices.voice import Voice, VoiceKind
from routes.deps import RuntimeDep
from routes.errors import ERROR_RESPONSES

router = APIRouter(tags=["voices"], responses=ERROR_RESPONSES)

# Plain functions, which FastAPI runs in its thread pool: a listing reads folders.


@router.get("/v1/voices")
def list_voices(runtime: RuntimeDep) -> dict[str, Any]:
    """Every voice, sorted; ``voices`` is the same in ElevenLabs' form, which shares this path."""
    voices = runtime.voices.list()
    return {
        "object": "list",
        "data": [{"object": "voice", "id": voice.id, "name": voice.name} for voice in voices],
        "voices": [elevenlabs_voice(voice) for voice in voices],
    }


@router.get("/v1/audio/voices")
def list_audio_voices(runtime: RuntimeDep, legacy: bool = False) -> dict[str, Any]:
    """Every voice for Open WebUI, and those made by uploads; ``legacy=true`` gives bare names instead of objects."""
    return _listed(runtime.voices.list(), legacy=legacy)


@router.get("/v1/audio/voices/{model:path}")
def list_audio_voices_of(model: str, runtime: RuntimeDep) -> dict[str, Any]:
    """The same whatever the model: every voice speaks with each of them."""
    return _listed(runtime.voices.list())


def uploaded_voice(voice: Voice) -> dict[str, Any] | None:
    """Describe a clone as vLLM-Omni does, and by its ``id``; None for any other voice, or one that has gone.

    Looks at the file: to be called in a thread.
    """
    if voice.kind is not VoiceKind.CLONE:
        return None
    try:
        file = voice.files[0].stat()
    except OSError:
        return None
    return {
        "id": voice.id,
        "name": voice.name,
        "consent": voice.consent,
        "created_at": int(file.st_mtime),
        "file_size": file.st_size,
        "mime_type": "audio/wav",  # in which all clones are stored
        **({"ref_text": voice.transcript} if voice.transcript else {}),
        **({"speaker_description": voice.description} if voice.description else {}),
    }


def _listed(voices: Sequence[Voice], *, legacy: bool = False) -> dict[str, Any]:
    return {
        "voices": [voice.id for voice in voices] if legacy else [_entry(voice) for voice in voices],
        "uploaded_voices": [entry for voice in voices if (entry := uploaded_voice(voice)) is not None],
    }


def elevenlabs_voice(voice: Voice) -> dict[str, str]:
    """Return a voice in ElevenLabs' form."""
    return {"voice_id": voice.id, "name": voice.name, "category": _category(voice)}


def _entry(voice: Voice) -> dict[str, str]:
    # SillyTavern's TTS-WebUI provider reads value and label.
    return {"id": voice.id, "name": voice.name, "value": voice.id, "label": voice.name}


def _category(voice: Voice) -> str:
    return "cloned" if voice.kind is VoiceKind.CLONE else "premade"
