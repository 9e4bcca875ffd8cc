"""Requests as known clients of Inworld's interface send them."""

from __future__ import annotations

import base64
import json

import httpx

from tests.contract.inworld.calls import audio_of, check_alignment, chunks, open_socket
from tests.contract.serving import Served

PIPECAT_HEADERS = {
    "Authorization": "Basic aW53b3JsZDprZXk=",
    "Content-Type": "application/json",
    "X-User-Agent": "pipecat",
    "X-Request-Id": "1f0c8a1e-5b56-4b6c-9a50-cf1b7f6c8d11",
}


def test_pipecat_over_http(server: Served) -> None:
    payload = {
        "text": "Hello there. How are you?",
        "voiceId": "anna",
        "modelId": "inworld-tts-2",
        "audioConfig": {"audioEncoding": "PCM", "sampleRateHertz": 16000, "speakingRate": 1.0},
        "temperature": 1.1,
        "timestampType": "WORD",
        "timestampTransportStrategy": "ASYNC",
    }
    audio, words, end = b"", [], 0.0
    url = server.url + "/tts/v1/voice:stream"
    with httpx.stream("POST", url, json=payload, headers=PIPECAT_HEADERS) as answer:
        assert answer.status_code == 200
        assert answer.headers["x-request-id"] == PIPECAT_HEADERS["X-Request-Id"]
        for line in answer.iter_lines():
            result = json.loads(line)["result"]
            if "audioContent" in result:
                audio += base64.b64decode(result["audioContent"])
            if "timestampInfo" in result:
                alignment = result["timestampInfo"].get("wordAlignment", {})
                words += alignment.get("words", [])
                end = max(end, alignment["wordEndTimeSeconds"][-1])
    assert not audio.startswith(b"RIFF")
    assert words == ["Hello", "there.", "How", "are", "you?"]
    assert 0 < end <= len(audio) / 2 / 16000


def test_pipecat_over_the_socket(server: Served) -> None:
    with open_socket(server, additional_headers=PIPECAT_HEADERS) as socket:
        socket.send({"send_text": {"text": ""}})  # a keep-alive before any context
        for turn in ("turn-1", "turn-2"):
            socket.send(
                {
                    "create": {
                        "voiceId": "anna",
                        "modelId": "inworld-tts-2",
                        "audioConfig": {"audioEncoding": "PCM", "sampleRateHertz": 24000},
                        "autoMode": True,
                        "timestampTransportStrategy": "ASYNC",
                        "maxBufferDelayMs": 3000,
                        "bufferCharThreshold": 250,
                        "timestampType": "WORD",
                    },
                    "contextId": turn,
                }
            )
            for sentence in ("Hello there. ", "How are you? "):
                socket.send({"send_text": {"text": sentence}, "contextId": turn})
            socket.send({"flush_context": {}, "contextId": turn})
            socket.send({"close_context": {}, "contextId": turn})
            results = socket.until("contextClosed", turn)
            assert "contextCreated" in results[0]
            flushes = [at for at, result in enumerate(results) if "flushCompleted" in result]
            assert len(flushes) == 3  # two sentences, and the flush that found nothing left
            start, words = 0, []
            for flush in flushes[:2]:
                parts = chunks(results[start:flush])
                duration = len(audio_of(parts)) / 2 / 24000
                words += check_alignment(parts[-1]["timestampInfo"], duration)
                start = flush
            assert words == ["Hello", "there.", "How", "are", "you?"]
        # closing once more what is closed already, as pipecat does when it disconnects
        socket.send({"close_context": {}, "contextId": "turn-2"})
        status = socket.status()
        assert status["code"] == 5
        assert "not found" in status["message"].lower()


def test_livekit_over_http(server: Served) -> None:
    payload = {
        "text": "Hello there.",
        "voiceId": "anna",
        "modelId": "inworld-tts-1.5-max",
        "audioConfig": {
            "audioEncoding": "PCM",
            "bitrate": 64000,
            "sampleRateHertz": 24000,
            "temperature": 1.1,
            "speakingRate": 1.0,
        },
        "temperature": 1.1,
        "timestampType": "WORD",
        "timestampTransportStrategy": "ASYNC",
    }
    answer = httpx.post(server.url + "/tts/v1/voice:stream", json=payload)
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert all(list(line) == ["result"] for line in lines)
    assert len(audio_of([line["result"] for line in lines])) > 24000


def test_livekit_reads_the_message_of_an_error(server: Served) -> None:
    payload = {"text": "Hi", "voiceId": "Ashley", "modelId": "inworld-tts-1.5-max"}
    answer = httpx.post(server.url + "/tts/v1/voice:stream", json=payload)
    assert answer.status_code == 404
    assert "Ashley" in answer.json()["message"]


def test_livekit_over_the_socket(server: Served) -> None:
    with open_socket(server, additional_headers={"Authorization": "Basic key"}) as socket:
        config = {
            "voiceId": "anna",
            "modelId": "inworld-tts-1.5-max",
            "audioConfig": {
                "audioEncoding": "PCM",
                "sampleRateHertz": 24000,
                "bitrate": 64000,
                "speakingRate": 1.0,
            },
            "temperature": 1.1,
            "bufferCharThreshold": 250,
            "maxBufferDelayMs": 60_000,  # it sends 3000; no pause between two tokens is to have any spoken
            "timestampType": "WORD",
            "timestampTransportStrategy": "ASYNC",
        }
        socket.send({"create": config, "contextId": "aB3dE5"})
        for token in ("Hel", "lo ", "there", ". ", "How are", " you?"):
            socket.send({"send_text": {"text": token}, "contextId": "aB3dE5"})
        socket.send({"flush_context": {}, "contextId": "aB3dE5"})
        socket.send({"close_context": {}, "contextId": "aB3dE5"})
        results = socket.until("contextClosed", "aB3dE5")
        assert audio_of(chunks(results))
        assert server.script.spoken[-1].text.endswith("Hello there. How are you?")


def test_livekit_lists_voices_of_a_language(server: Served) -> None:
    answer = httpx.get(server.url + "/tts/v1/voices", params={"filter": "language=en"})
    assert {"voiceId", "displayName", "languages"} <= set(answer.json()["voices"][0])


def test_inworlds_own_samples_in_snake_case(server: Served) -> None:
    payload = {
        "text": "Hello there.",
        "voice_id": "anna",
        "model_id": "inworld-tts-1",
        "audio_config": {"audio_encoding": "LINEAR16", "sample_rate_hertz": 48000, "bit_rate": 128000},
        "temperature": 0.8,
        "timestamp_type": "WORD",
    }
    headers = {"Authorization": "Basic key"}
    whole = httpx.post(server.url + "/tts/v1/voice", json=payload, headers=headers).json()
    audio = base64.b64decode(whole["audioContent"])
    assert audio[:4] == b"RIFF"
    assert whole["timestampInfo"]["wordAlignment"]["words"] == ["Hello", "there."]
    lines = httpx.post(server.url + "/tts/v1/voice:stream", json=payload, headers=headers).text.splitlines()
    pieces = [json.loads(line)["result"] for line in lines]
    joined = b"".join(
        piece[44:] if piece.startswith(b"RIFF") else piece
        for piece in (base64.b64decode(result["audioContent"]) for result in pieces)
    )
    assert len(joined) == len(audio) - 44


def test_a_game_server_follows_pages_of_voices(server: Served) -> None:
    token, names = "", []
    while True:
        query = {"pageSize": "2", "pageToken": token}
        answer = httpx.get(server.url + "/voices/v1/voices", params=query).json()
        names += [voice["voiceId"] for voice in answer["voices"] if voice["source"] != "IVC"]
        if not (token := answer.get("nextPageToken", "")):
            break
    assert names == ["anna", "bob", "Old Man"]
