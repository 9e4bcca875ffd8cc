"""When words are spoken, in a header and in events; of an engine without attention, so estimated."""

import base64
import json
from typing import Any

import httpx
import openai
import pytest

from tests.contract.serving import Serve, Served

TEXT = "The quick brown fox jumps over the lazy dog, and then it rests."
SPEECH = "/v1/audio/speech"


def post(server: Served, body: dict[str, Any], **options: Any) -> httpx.Response:
    return httpx.post(server.url + SPEECH, json={"input": TEXT, **body}, **options)


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix("data: ")) for line in answer.text.split("\n\n") if line]


def check(words: list[dict[str, Any]], audio_ms: float, text: str = TEXT) -> None:
    assert [word["word"] for word in words] == text.split()
    edges = [edge for word in words for edge in (word["start_ms"], word["end_ms"])]
    assert edges == sorted(edges)
    assert edges[0] >= 0
    assert edges[-1] == pytest.approx(audio_ms, abs=30)


@pytest.mark.parametrize("field", ["word_timestamps", "timestamps"])
@pytest.mark.parametrize("response_format", ["mp3", "wav", "pcm"])
def test_an_answer_with_times_comes_in_one_piece_with_a_header(
    server: Served, field: str, response_format: str
) -> None:
    answer = post(server, {field: True, "response_format": response_format, "wav_streaming": True})
    assert int(answer.headers["content-length"]) == len(answer.content)
    check(json.loads(answer.headers["x-word-timestamps"]), 1000 * float(answer.headers["x-audio-duration"]))
    assert answer.headers["x-word-timestamps-method"] == "estimate"


def test_times_follow_the_speed(server: Served) -> None:
    answer = post(server, {"word_timestamps": True, "speed": 2.0})
    check(json.loads(answer.headers["x-word-timestamps"]), 1000 * float(answer.headers["x-audio-duration"]))


def test_a_header_is_ascii_whatever_the_words_are(server: Served) -> None:
    answer = post(server, {"input": "Ça “va”", "word_timestamps": True})
    words = json.loads(answer.headers["x-word-timestamps"])
    assert [word["word"] for word in words] == ["Ça", "“va”"]


def test_words_that_do_not_fit_into_a_head_are_left_out_and_that_is_said(server: Served) -> None:
    answer = post(server, {"input": "All work and no play. " * 20, "word_timestamps": True})
    assert answer.status_code == 200
    assert "x-word-timestamps" not in answer.headers
    assert answer.headers["x-word-timestamps-omitted"] == "too long"
    assert sum(len(name) + len(value) + 4 for name, value in answer.headers.raw) < 4096


def test_a_bare_stream_has_no_place_for_times(server: Served) -> None:
    told = post(server, {"word_timestamps": True, "stream": True}).json()["error"]
    assert (told["param"], told["code"]) == ("word_timestamps", "invalid_value")


def test_without_being_asked_nothing_is_told(server: Served) -> None:
    for body in ({"stream": False}, {"word_timestamps": False}, {"word_timestamps": None, "stream": True}):
        assert not [name for name in post(server, body).headers if "word-timestamps" in name]
    told = events(post(server, {"stream_format": "sse"}))
    assert {event["type"] for event in told} == {"speech.audio.delta", "speech.audio.done"}
    assert "timestamps" not in json.dumps(told)


def test_events_tell_words_between_the_audio(server: Served) -> None:
    text = "All work and no play. " * 20
    told = events(
        post(server, {"input": text, "response_format": "pcm", "stream_format": "sse", "word_timestamps": True})
    )
    kinds = [event["type"] for event in told]
    assert "speech.audio.delta" in kinds[kinds.index("speech.audio.word_timestamps") :]
    words = [word for event in told for word in event.get("timestamps", ())]
    check(words, sum(len(base64.b64decode(event.get("audio", ""))) for event in told) / 2 / 44.1, text)
    assert told[-1]["type"] == "speech.audio.done"
    assert told[-1]["timestamps_method"] == "estimate"


async def test_openais_client_takes_events_with_words(server: Served) -> None:
    async with (
        openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="-") as client,
        client.audio.speech.with_streaming_response.create(
            model="tts-1", voice="alloy", input=TEXT, stream_format="sse", extra_body={"word_timestamps": True}
        ) as answer,
    ):
        lines = [line async for line in answer.iter_lines() if line]
    assert any("speech.audio.word_timestamps" in line for line in lines)


def test_browsers_may_read_the_header(serve: Serve) -> None:
    server = serve(cors_origins=("https://app.example",))
    answer = post(server, {"word_timestamps": True}, headers={"Origin": "https://app.example"})
    exposed = answer.headers["access-control-expose-headers"].lower().split(", ")
    assert {"x-word-timestamps", "x-word-timestamps-omitted", "x-word-timestamps-method"} <= set(exposed)


def test_an_item_of_a_batch_has_its_words(server: Served) -> None:
    body = {"items": [{"input": TEXT, "word_timestamps": True}, {"input": TEXT}]}
    first, second = httpx.post(f"{server.url}{SPEECH}/batch", json=body).json()["results"]
    assert [word["word"] for word in first["timestamps"]] == TEXT.split()
    assert first["timestamps_method"] == "estimate"
    assert "timestamps" not in second
