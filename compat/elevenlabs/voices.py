"""``GET /v2/voices``: the search that ElevenLabs' SDK lists voices with; ``/v1/voices`` is in ``routes/voices.py``."""

from __future__ import annotations

from fastapi import APIRouter

from compat.elevenlabs.errors import DETAIL_RESPONSES
from routes.deps import RuntimeDep
from routes.voices import elevenlabs_voice

router = APIRouter(tags=["ElevenLabs"], responses=DETAIL_RESPONSES)

# A plain function, which FastAPI runs in its thread pool: a listing reads folders.


@router.get("/v2/voices")
def search_voices(runtime: RuntimeDep, search: str = "") -> dict[str, object]:
    """The voices whose id or name contains ``search``, whatever the case; all on one page."""
    wanted = search.casefold()
    voices = [v for v in runtime.voices.list() if wanted in v.id.casefold() or wanted in v.name.casefold()]
    return {
        "voices": [elevenlabs_voice(voice) for voice in voices],
        "has_more": False,
        "total_count": len(voices),
        "next_page_token": None,
    }
