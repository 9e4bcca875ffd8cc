"""How Inworld's clients see voices: lists, filters, pages."""

from __future__ import annotations

import subprocess
import sys

import pytest

from compat.inworld import listing
from compat.inworld.listing import as_tts_voice, as_voice, languages_wanted, page, speaks
from echo.errors import BadRequest
from echo.voices.voice import Voice, VoiceKind
from tests.processes import PATIENCE_S

BUILT_IN = Voice(id="anna", name="Anna", kind=VoiceKind.FILE, files=())
CLONE = Voice(
    id="skyrim__lydia",
    name="Lydia!",
    kind=VoiceKind.CLONE,
    files=(),
    workspace="skyrim",
    description="housecarl",
    tags=("npc",),
    lang="DE_DE",
)


def test_a_clone_is_shown_under_its_own_workspace() -> None:
    assert as_voice(CLONE, "asked") == {
        "name": "workspaces/skyrim/voices/lydia",
        "voiceId": "skyrim__lydia",
        "displayName": "Lydia!",
        "langCode": "DE_DE",
        "description": "housecarl",
        "tags": ["npc"],
        "source": "IVC",
    }


def test_a_built_in_voice_is_shown_under_the_workspace_that_asks() -> None:
    shown = as_voice(BUILT_IN, "asked")
    assert (shown["name"], shown["voiceId"], shown["source"]) == ("workspaces/asked/voices/anna", "anna", "SYSTEM")


def test_the_short_list_has_languages() -> None:
    assert as_tts_voice(BUILT_IN)["languages"] == ["en"]
    assert as_tts_voice(CLONE)["languages"] == ["de"]


@pytest.mark.parametrize(
    ("filter", "shown"),
    [
        ("", ["anna", "skyrim__lydia"]),
        ("language=en", ["anna"]),
        ('langCode = "EN_US"', ["anna"]),
        ("language=de", ["skyrim__lydia"]),
        ("language=en OR language=de", ["anna", "skyrim__lydia"]),
        ("language=fr", []),
        ("tags:npc AND foo=bar", ["anna", "skyrim__lydia"]),
        ("=)(&%$", ["anna", "skyrim__lydia"]),
    ],
)
def test_filters_narrow_to_languages_and_ignore_the_rest(filter: str, shown: list[str]) -> None:
    wanted = languages_wanted(filter)
    assert [voice.id for voice in (BUILT_IN, CLONE) if speaks(voice, wanted)] == shown


def test_pages_cover_the_list_once() -> None:
    items, token, seen = list(range(7)), "", []
    for _ in range(10):
        part = page(items, 3, token)
        seen.append(list(part.items))
        if not (token := part.next_token):
            break
    assert seen == [[0, 1, 2], [3, 4, 5], [6]]


def test_without_a_size_all_come_at_once() -> None:
    part = page(list(range(7)), 0, "")
    assert (len(part.items), part.next_token) == (7, "")


def test_a_page_beyond_the_end_is_empty() -> None:
    part = page([1, 2], 5, "40")
    assert (list(part.items), part.next_token) == ([], "")


@pytest.mark.parametrize("token", ["abc", "-1", "1.5", "٣", "9" * 30])
def test_a_foreign_token_is_refused(token: str) -> None:
    with pytest.raises(BadRequest, match="pageToken"):
        page([1], 1, token)


def test_no_filter_takes_long_to_read() -> None:
    """A search by a pattern cannot be ended, and everybody waits for it: this one took an hour."""
    code = "import re, sys; [re.findall(sys.argv[1], 'a' + filler * 500_000) for filler in 'a =-']"
    subprocess.run([sys.executable, "-S", "-c", code, listing._CONDITION.pattern], check=True, timeout=PATIENCE_S)
