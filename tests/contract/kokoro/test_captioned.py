"""Kokoro-FastAPI's route, asked as its README and its clients do."""

import base64
import io
import json
from typing import Any

import httpx
import pytest
import soundfile

from tests.contract.serving import Serve, Served

TEXT = "The quick brown fox jumps over the lazy dog, and then it rests."
LONG = "All work and no play. " * 20
#: What clients send besides OpenAI's fields; this server has no use for it.
BODY = {"model": "kokoro", "input": TEXT, "voice": "anna", "speed": 1.0, "lang_code": "a", "download_format": "mp3"}


def post(server: Served, **body: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/dev/captioned_speech", json={**BODY, **body})


def check(words: list[dict[str, Any]], text: str, audio_s: float) -> None:
    assert [word["word"] for word in words] == text.split()
    assert all(set(word) == {"word", "start_time", "end_time"} for word in words)
    edges = [edge for word in words for edge in (word["start_time"], word["end_time"])]
    assert edges == sorted(edges)
    assert edges[-1] == pytest.approx(audio_s, abs=0.06)  # an mp3 is padded


def test_one_object_has_the_file_and_its_words(server: Served) -> None:
    answer = post(server, response_format="wav", stream=False, return_timestamps=True)
    assert answer.headers["content-type"] == "application/json"
    told = answer.json()
    audio, rate = soundfile.read(io.BytesIO(base64.b64decode(told["audio"])))
    check(told["timestamps"], TEXT, len(audio) / rate)
    assert told["audio_format"] == "audio/wav"
    assert told["timestamps_method"] == "estimate"


@pytest.mark.parametrize("absent", [{}, {"stream": None, "response_format": None, "return_timestamps": None}])
def test_unless_told_otherwise_lines_carry_one_mp3_and_its_words(server: Served, absent: dict[str, None]) -> None:
    answer = post(server, input=LONG, **absent)
    assert answer.headers["content-type"] == "application/json"
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert {line["audio_format"] for line in lines} == {"audio/mpeg"}
    audio, rate = soundfile.read(io.BytesIO(b"".join(base64.b64decode(line["audio"]) for line in lines)))
    check([word for line in lines for word in line["timestamps"]], LONG, len(audio) / rate)
    assert sum(bool(line["timestamps"]) for line in lines) > 1, "times come while the audio does"


def test_a_streamed_wav_has_one_header(server: Served) -> None:
    lines = [json.loads(line) for line in post(server, response_format="wav").text.splitlines()]
    audio = b"".join(base64.b64decode(line["audio"]) for line in lines)
    assert audio.count(b"RIFF") == 1
    assert len(audio) - 44 == pytest.approx(2 * 44_100 * lines[-1]["timestamps"][-1]["end_time"], abs=3000)


@pytest.mark.parametrize("stream", [True, False])
def test_times_can_be_refused(server: Served, stream: bool) -> None:
    for line in post(server, stream=stream, return_timestamps=False).text.splitlines():
        told = json.loads(line)
        assert told["audio"]
        assert told["timestamps"] == []
        assert "timestamps_method" not in told


@pytest.mark.parametrize("stream", [True, False])
def test_where_nothing_is_spoken_there_are_no_words(server: Served, stream: bool) -> None:
    lines = [json.loads(line) for line in post(server, input="*sighs*", stream=stream).text.splitlines()]
    assert any(line["audio"] for line in lines)
    assert not any(line["timestamps"] for line in lines)


def test_a_failure_breaks_the_lines_off(server: Served) -> None:
    server.script.fail_after_blocks = 1
    with pytest.raises(httpx.RemoteProtocolError):
        post(server)


def test_what_is_wrong_is_named(server: Served) -> None:
    for field, value in (("voice", "zed"), ("return_timestamps", "yes"), ("response_format", "ogg")):
        answer = post(server, **{field: value})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == field


def test_it_can_be_switched_off(serve: Serve) -> None:
    assert post(serve(kokoro_compat=False)).status_code == 404
