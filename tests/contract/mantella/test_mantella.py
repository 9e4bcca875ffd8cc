"""Mantella with its XTTS service: what it asks at its start and for every line."""

from __future__ import annotations

import io
from collections.abc import Iterator

import httpx
import pytest
import soundfile

from tests.contract.serving import Served

OFFICIAL = {"main", "v2.0.0", "v2.0.1", "v2.0.2", "v2.0.3"}


@pytest.fixture
def client(server: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, verify=False) as opened:
        yield opened


def test_the_server_answers_its_probe(client: httpx.Client) -> None:
    assert client.get("/").status_code == 200


def test_it_finds_its_model_and_switches_none(client: httpx.Client) -> None:
    assert OFFICIAL & set(client.get("/get_models_list").json())


def test_it_finds_speakers_under_english(client: httpx.Client) -> None:
    speakers = client.get("/speakers_list").json()["en"]["speakers"]
    assert "Old Man" in speakers


def test_it_sends_its_settings(client: httpx.Client) -> None:
    settings = {"stream_chunk_size": 20, "temperature": 0.7, "speed": 1.0, "length_penalty": 1, "top_k": 50}
    assert client.post("/set_tts_settings", json=settings).status_code == 200


def test_a_line_is_a_file_that_libsndfile_reads(client: httpx.Client) -> None:
    line = {"text": "Well met.", "speaker_wav": "oldman", "language": "en", "accent": "en", "save_path": "1.wav"}
    answer = client.post("/tts_to_audio/", json=line)
    info = soundfile.info(io.BytesIO(answer.content))
    assert (info.format, info.subtype, info.channels) == ("WAV", "PCM_16", 1)


def test_a_line_can_be_played_while_it_arrives(client: httpx.Client) -> None:
    line = {"text": "Well met, traveller.", "speaker_wav": "oldman", "language": "en"}
    with client.stream("POST", "/tts_stream", json=line) as answer:
        head = b""
        for part in answer.iter_bytes():
            head += part
            if len(head) >= 44:
                break
    assert (head[:4], head[8:16], head[36:40]) == (b"RIFF", b"WAVEfmt ", b"data")
    assert int.from_bytes(head[34:36], "little") == 16


def test_a_voice_it_does_not_have_is_an_error_and_not_another_voice(client: httpx.Client) -> None:
    line = {"text": "Well met.", "speaker_wav": "malekhajiit", "language": "en"}
    assert client.post("/tts_to_audio/", json=line).status_code == 404
