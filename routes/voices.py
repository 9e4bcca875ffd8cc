"""Lists of voices, in the forms that OpenAI-style clients read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter

from echo.runtime import Runtime
from echo.voices.voice import Voice, VoiceKind
from routes.deps import RuntimeDep
from routes.errors import ERROR_RESPONSES

router = APIRouter(tags=["voices"], responses=ERROR_RESPONSES)

# Plain functions, which FastAPI runs in its thread pool: a listing reads folders.


@router.get("/v1/voices")
def list_voices(runtime: RuntimeDep) -> dict[str, Any]:
    """Every voice, sorted, and the models that speak with it; then the voices that an engine has of its own.

    ``voices`` is the same in ElevenLabs' form, which shares this path.
    """
    voices, own = runtime.voices.list(), _own_voices(runtime)
    models = [info.name for info in runtime.infos if info.clones]
    return {
        "object": "list",
        "data": [
            *({"object": "voice", "id": voice.id, "name": voice.name, "models": models} for voice in voices),
            *({"object": "voice", "id": name, "name": name, "models": [model]} for model, name in own),
        ],
        "voices": [
            *(elevenlabs_voice(voice) for voice in voices),
            *({"voice_id": name, "name": name, "category": "premade"} for _, name in own),
        ],
    }


@router.get("/v1/audio/voices")
def list_audio_voices(runtime: RuntimeDep, legacy: bool = False) -> dict[str, Any]:
    """Every voice for Open WebUI, and those made by uploads; ``legacy=true`` gives bare names instead of objects."""
    return _listed(runtime.voices.list(), [name for _, name in _own_voices(runtime)], legacy=legacy)


@router.get("/v1/audio/voices/{model:path}")
def list_audio_voices_of(model: str, runtime: RuntimeDep) -> dict[str, Any]:
    """Every voice that a model speaks with; any other name means the default one."""
    infos = runtime.infos
    info = next((info for info in infos if info.name == model), infos[0] if infos else None)
    if info is None:
        return _listed(runtime.voices.list())
    return _listed(runtime.voices.list() if info.clones else [], info.voices)


def _own_voices(runtime: Runtime) -> list[tuple[str, str]]:
    """The voices that engines have of their own, with the engine's name before each."""
    return [(info.name, voice) for info in runtime.infos for voice in info.voices]


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


def _listed(voices: Sequence[Voice], own: Sequence[str] = (), *, legacy: bool = False) -> dict[str, Any]:
    names = [*((voice.id, voice.name) for voice in voices), *((name, name) for name in own)]
    return {
        "voices": [voice_id for voice_id, _ in names] if legacy else [_entry(*each) for each in names],
        "uploaded_voices": [entry for voice in voices if (entry := uploaded_voice(voice)) is not None],
    }


def elevenlabs_voice(voice: Voice) -> dict[str, str]:
    """Return a voice in ElevenLabs' form."""
    return {"voice_id": voice.id, "name": voice.name, "category": _category(voice)}


def _entry(voice_id: str, name: str) -> dict[str, str]:
    # SillyTavern's TTS-WebUI provider reads value and label.
    return {"id": voice_id, "name": name, "value": voice_id, "label": name}


def _category(voice: Voice) -> str:
    return "cloned" if voice.kind is VoiceKind.CLONE else "premade"
