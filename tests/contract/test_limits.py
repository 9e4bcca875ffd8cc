"""What asks for too much is a 400 that says what is allowed, on every route, before the engine has anything to do."""

from __future__ import annotations

import json

import httpx
import pytest
from websockets.sync.client import connect

from tests.contract.serving import PATIENCE_S, Serve, Served

#: 150 pauses of ten seconds, at a quarter of the speed: 100 minutes of silence in 1.7 KB.
PAUSES = "a[pause:10s]" * 150


def post(server: Served, path: str, body: dict[str, object]) -> httpx.Response:
    return httpx.post(f"{server.url}{path}", json=body, timeout=60.0)  # some are long texts


@pytest.mark.parametrize("more", [{}, {"stream": False}, {"stream_format": "sse"}, {"response_format": "wav"}])
@pytest.mark.parametrize(
    ("fields", "param", "told"),
    [
        ({"input": PAUSES, "speed": 0.25}, "input", "at most 300 s"),
        ({"input": "a[pause:1ms]" * 300 + "b[pause:10ms]" * 30}, None, ""),
        (
            {"input": "Hi. " * 1000, "chunk_chars_per_second": 1e-4},
            "chunk_chars_per_second",
            "equal to 1",
        ),
        ({"input": "a " * 1100, "chunk_max_seconds": 1, "chunk_chars_per_second": 1}, "input", "at most 1000"),
        ({"input": "x" * 5000}, "input", "at most 4096"),
    ],
)
def test_openai(
    server: Served, fields: dict[str, object], param: str | None, told: str, more: dict[str, object]
) -> None:
    answer = post(server, "/v1/audio/speech", {**fields, **more})
    if param is None:
        assert answer.status_code == 200  # hundreds of short pauses are nothing unusual
        return
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert told in answer.json()["error"]["message"]
    assert server.script.spoken == server.script.prepared == []


def test_inworld(server: Served) -> None:
    body = {"text": PAUSES[:1900], "voiceId": "anna"}
    for path in ("/tts/v1/voice", "/tts/v1/voice:stream"):
        answer = post(server, path, body)
        assert answer.status_code == 400
        assert "text: its pauses add up to" in answer.json()["message"]
    with connect(f"{server.ws_url}/tts/v1/voice:streamBidirectional", open_timeout=PATIENCE_S) as socket:
        socket.send(json.dumps({"contextId": "a", "create": {"voiceId": "anna"}}))
        socket.send(json.dumps({"contextId": "a", "send_text": {"text": PAUSES[:900], "flush_context": {}}}))
        results = [json.loads(socket.recv(PATIENCE_S))["result"] for _ in range(2)]
    assert results[1]["status"]["code"] == 3
    assert "its pauses add up to" in results[1]["status"]["message"]
    assert server.script.spoken == []


def test_xtts(server: Served) -> None:
    for path in ("/tts_to_audio", "/tts_stream"):
        answer = post(server, path, {"text": PAUSES, "speaker_wav": "anna", "speed": 0.25})
        assert answer.status_code == 400
        assert "at most 300 s" in answer.json()["detail"]


def test_an_answer_in_one_piece_is_limited_and_a_stream_is_not(serve: Serve) -> None:
    server = serve(max_whole_bytes=200_000)
    body: dict[str, object] = {"input": "One sentence that is long enough. " * 3, "response_format": "wav"}
    refused = post(server, "/v1/audio/speech", body)
    assert refused.status_code == 400
    assert "Ask for a stream" in refused.json()["error"]["message"]
    assert server.script.spoken == []
    assert post(server, "/v1/audio/speech", {**body, "wav_streaming": True}).status_code == 200


@pytest.mark.parametrize("whole", [True, False])
def test_audio_that_becomes_longer_than_allowed_ends_with_an_error(serve: Serve, whole: bool) -> None:
    server = serve(max_audio_s=5)
    server.script.audio_s_per_char = 2.0
    body = {"input": "Short.", "response_format": "pcm", "stream": not whole}
    if whole:
        answer = post(server, "/v1/audio/speech", body)
        assert answer.status_code == 400
        assert "longer than 5 s" in answer.json()["error"]["message"]
    else:
        with pytest.raises(httpx.RemoteProtocolError):
            post(server, "/v1/audio/speech", body)
    server.wait_idle()
