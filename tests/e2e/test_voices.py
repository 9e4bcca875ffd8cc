"""Voices come and go while the server runs, and a request may bring its own."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.server_process import ServerProcess
from tests.processes import ROOT
from train.tiny.prompts import VOICES

CLIPS = ROOT / "audio_prompts"
TEXT = "This voice was not there before."


@pytest.fixture
def newcomer(voices_dir: Path) -> Iterator[Path]:
    """Where a voice ``newcomer`` may be put; nothing is there yet."""
    path = voices_dir / "newcomer.flac"
    yield path
    path.unlink(missing_ok=True)


def put(clip: str, path: Path) -> None:
    """Publish a clip as careful writers do."""
    draft = path.with_name("newcomer.tmp")
    shutil.copy(CLIPS / f"{clip}.flac", draft)
    os.replace(draft, path)


def listed(server: ServerProcess) -> list[str]:
    return [voice["id"] for voice in server.get("/v1/voices").json()["data"]]


def spoken(server: ServerProcess, voice: str) -> bytes:
    return server.speak(TEXT, voice=voice).raise_for_status().content


def test_voices_of_the_folder_are_listed(server: ServerProcess) -> None:
    assert listed(server) == sorted(VOICES)


def test_a_clip_that_is_added_replaced_and_removed_is_a_voice_at_once(server: ServerProcess, newcomer: Path) -> None:
    assert "newcomer" not in listed(server)
    put("tiny_beth", newcomer)
    assert "newcomer" in listed(server)
    assert spoken(server, "newcomer") == spoken(server, "tiny_beth")
    put("tiny_dan", newcomer)
    assert spoken(server, "newcomer") == spoken(server, "tiny_dan")
    newcomer.unlink()
    assert "newcomer" not in listed(server)
    refused = server.speak(TEXT, voice="newcomer")
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "voice_not_found"


def test_a_request_can_bring_its_voice_as_base64(server: ServerProcess) -> None:
    clip = base64.b64encode((CLIPS / "tiny_eric.flac").read_bytes()).decode()
    assert spoken(server, clip) == spoken(server, "tiny_eric")


def test_no_voice_at_all_is_the_first_of_the_list(server: ServerProcess) -> None:
    assert server.speak(TEXT).raise_for_status().content == spoken(server, "tiny_anna")
