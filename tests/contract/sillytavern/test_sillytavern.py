"""SillyTavern with its XTTS provider: speakers with previews, whole files, streams by URL."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.contract.serving import Served


@pytest.fixture
def client(server: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, verify=False) as opened:
        yield opened


def test_speakers_have_the_keys_it_reads(client: httpx.Client) -> None:
    for speaker in client.get("/speakers").json():
        assert sorted(speaker) == ["name", "preview_url", "voice_id"]


def test_it_posts_a_message_and_gets_a_file(client: httpx.Client) -> None:
    body = {"text": '"Hello!" *she waves*', "speaker_wav": "bob", "language": "en"}
    headers = {"Content-Type": "application/json", "Cache-Control": "no-cache"}
    answer = client.post("/tts_to_audio/", json=body, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "audio/wav")


def test_it_streams_by_url(client: httpx.Client) -> None:
    query = {"text": 'He said "yes" & left.', "speaker_wav": "Old Man", "language": "en"}
    answer = client.get("/tts_stream/", params=query)
    assert (answer.status_code, answer.content[:4]) == (200, b"RIFF")


def test_it_sends_its_settings_before_it_speaks(client: httpx.Client) -> None:
    settings = {
        "temperature": 0.75,
        "speed": 1,
        "length_penalty": 1,
        "repetition_penalty": 5,
        "top_p": 0.85,
        "top_k": 50,
        "enable_text_splitting": True,
        "stream_chunk_size": 100,
    }
    assert client.post("/set_tts_settings", json=settings).status_code == 200
