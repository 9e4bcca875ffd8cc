"""A text with nothing to speak is a tenth of a second of silence on every route, from the engine that really serves."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
from websockets.sync.client import connect

from echo.audio.pcm import from_bytes
from echo.engines.load import load_engine
from echo.settings import Settings
from tests.contract.serving import PATIENCE_S, Served, serving

TEXTS = [".", "*sighs*", "🙂"]


@pytest.fixture(scope="module")
def tiny(voices_dir: Path) -> Iterator[Served]:
    """A server with the embedded model."""
    with serving(Settings(voices_dir=(str(voices_dir),), model_repo="tiny"), load_engine) as served:
        served.wait_ready()
        yield served


def wav_seconds(data: bytes) -> float:
    samples, rate = soundfile.read(BytesIO(data))
    assert not np.any(samples)
    return float(len(samples) / rate)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("encoding", ["pcm", "wav", "mp3", "opus", "aac", "flac"])
@pytest.mark.parametrize("stream", [True, False])
def test_openai(tiny: Served, text: str, encoding: str, stream: bool) -> None:
    body = {"input": text, "response_format": encoding, "stream": stream}
    answer = httpx.post(f"{tiny.url}/v1/audio/speech", json=body, timeout=PATIENCE_S)
    assert answer.status_code == 200, answer.text
    if encoding == "pcm":
        assert from_bytes(answer.content).tolist() == [0] * 4410
    elif encoding == "wav":
        assert wav_seconds(answer.content) == pytest.approx(0.1, abs=0.001)
    else:
        assert len(answer.content) > 50


@pytest.mark.parametrize("text", TEXTS)
def test_server_sent_events(tiny: Served, text: str) -> None:
    body = {"input": text, "response_format": "pcm", "stream_format": "sse"}
    answer = httpx.post(f"{tiny.url}/v1/audio/speech", json=body, timeout=PATIENCE_S)
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
    assert [event["type"] for event in events] == ["speech.audio.delta", "speech.audio.done"]


@pytest.mark.parametrize("text", TEXTS)
def test_inworld_over_http(tiny: Served, text: str) -> None:
    body = {"text": text, "voiceId": "anna", "audioConfig": {"audioEncoding": "WAV"}}
    whole = httpx.post(f"{tiny.url}/tts/v1/voice", json=body, timeout=PATIENCE_S)
    assert whole.status_code == 200, whole.text
    assert wav_seconds(base64.b64decode(whole.json()["audioContent"])) == pytest.approx(0.1, abs=0.001)
    lines = httpx.post(f"{tiny.url}/tts/v1/voice:stream", json=body, timeout=PATIENCE_S).text.splitlines()
    assert lines
    assert all("error" not in json.loads(line) for line in lines)


def test_inworld_on_a_socket(tiny: Served) -> None:
    with connect(f"{tiny.ws_url}/tts/v1/voice:streamBidirectional", open_timeout=PATIENCE_S) as socket:
        socket.send(json.dumps({"contextId": "a", "create": {"voiceId": "anna"}}))
        for text in TEXTS:
            socket.send(json.dumps({"contextId": "a", "send_text": {"text": text, "flush_context": {}}}))
        results: list[dict[str, object]] = []
        while sum("flushCompleted" in result for result in results) < len(TEXTS):
            results.append(json.loads(socket.recv(PATIENCE_S))["result"])
    assert all(result["status"]["code"] == 0 for result in results)  # type: ignore[index]
    assert any("audioChunk" in result for result in results)


@pytest.mark.parametrize("text", TEXTS)
def test_xtts(tiny: Served, text: str) -> None:
    body = {"text": text, "speaker_wav": "anna"}
    whole = httpx.post(f"{tiny.url}/tts_to_audio", json=body, timeout=PATIENCE_S)
    assert wav_seconds(whole.content) == pytest.approx(0.1, abs=0.001)
    streamed = httpx.get(f"{tiny.url}/tts_stream", params=body, timeout=PATIENCE_S)
    assert streamed.status_code == 200
    assert len(streamed.content) == 44 + 2 * 4410
