"""Voices as Inworld's clients read them, and filtered lists of them in pages. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from echo.errors import BadRequest
from echo.voices.names import SEPARATOR
from echo.voices.voice import Voice, VoiceKind

T = TypeVar("T")

#: Language of a voice without one: the model speaks English.
_LANG_CODE = "EN_US"
_LANGUAGE = "en"
#: A clone whose language the client left open.
_AUTO = "AUTO"

# Possessive, so that a word that no "=" follows is looked at once.
_CONDITION = re.compile(r"""(?<!\w)(\w++)\s*+=\s*+["']?([\w-]+)""")
_LANGUAGE_FIELDS = frozenset({"language", "languages", "lang_code", "langCode"})


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some items of a list, and the token of the next page; "" = there is none."""

    items: Sequence[T]
    next_token: str


def page(items: Sequence[T], size: int, token: str) -> Page[T]:
    """Cut a page of ``size`` items (0 = all that are left) out of a list; raises BadRequest for a foreign token."""
    if token and not (token.isascii() and token.isdecimal() and len(token) <= 9):
        raise BadRequest("pageToken: must be a nextPageToken of this list.", param="pageToken")
    start = int(token or 0)
    end = start + size if size else len(items)
    return Page(items[start:end], str(end) if end < len(items) else "")


def languages_wanted(filter: str) -> frozenset[str]:
    """Return the languages that a filter such as ``language=en`` asks for; any other condition is ignored."""
    return frozenset(_language(value) for field, value in _CONDITION.findall(filter) if field in _LANGUAGE_FIELDS)


def speaks(voice: Voice, wanted: frozenset[str]) -> bool:
    """Tell whether a voice has one of the languages; with none wanted every voice has."""
    return not wanted or _language(voice.lang) in wanted


def as_voice(voice: Voice, workspace: str) -> dict[str, object]:
    """Return a voice as the ``/voices/v1`` routes show it; ``workspace`` is the one that was asked."""
    clone = voice.kind is VoiceKind.CLONE
    short = voice.id.partition(SEPARATOR)[2] if clone else voice.id
    return {
        "name": f"workspaces/{voice.workspace or workspace}/voices/{short}",
        "voiceId": voice.id,
        "displayName": voice.name,
        "langCode": voice.lang or _LANG_CODE,
        "description": voice.description,
        "tags": list(voice.tags),
        "source": "IVC" if clone else "SYSTEM",
    }


def as_tts_voice(voice: Voice) -> dict[str, object]:
    """Return a voice as ``/tts/v1/voices`` shows it."""
    return {
        "languages": [_language(voice.lang)],
        "voiceId": voice.id,
        "displayName": voice.name,
        "description": voice.description,
        "tags": list(voice.tags),
    }


def _language(code: str) -> str:
    """Return the language of a code: ``en`` for ``EN_US``, ``en-GB``, ``AUTO`` and ""."""
    return _LANGUAGE if code in ("", _AUTO) else re.split("[_-]", code)[0].lower()
