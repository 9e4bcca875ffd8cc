"""POST /tts/v1/voice:stream: newline-delimited JSON."""

from __future__ import annotations

import base64
import io
import json
import struct

import httpx
import numpy as np
import pytest
import soundfile

from tests.contract.inworld.calls import audio_of, check_alignment, speak, stream
from tests.contract.serving import PATIENCE_S, Gate, Served, wait_until

LONG = "This is a sentence of some length. " * 6


def test_every_line_is_one_result_and_the_characters_are_counted_once(server: Served) -> None:
    results = stream(server, text=LONG, modelId="inworld-tts-2", audioConfig={"audioEncoding": "PCM"})
    assert len(results) > 3
    assert [result["usage"]["processedCharactersCount"] for result in results] == [len(LONG)] + [0] * (len(results) - 1)
    assert {result["usage"]["modelId"] for result in results} == {"inworld-tts-2"}
    assert not any("timestampInfo" in result for result in results)


def test_the_answer_is_chunked_json_that_no_proxy_holds_back(server: Served) -> None:
    body = {"text": "Hi", "voiceId": "anna"}
    with httpx.stream("POST", server.url + "/tts/v1/voice:stream", json=body) as answer:
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["transfer-encoding"] == "chunked"
        assert answer.headers["x-accel-buffering"] == "no"
        assert "content-length" not in answer.headers


def test_lines_stay_below_what_common_line_readers_take(server: Served) -> None:
    for result in stream(server, text=LONG, audioConfig={"audioEncoding": "LINEAR16", "sampleRateHertz": 48000}):
        assert len(json.dumps({"result": result})) < 64 * 1024
        assert 0 < len(base64.b64decode(result["audioContent"])) <= 32 * 1024


def test_no_sample_is_split_between_lines(server: Served) -> None:
    for result in stream(server, text=LONG, timestampType="WORD", audioConfig={"audioEncoding": "PCM"}):
        assert len(base64.b64decode(result["audioContent"])) % 2 == 0


@pytest.mark.parametrize("encoding", ["LINEAR16", "WAV"])
def test_a_wav_stream_has_one_header_in_its_first_line(server: Served, encoding: str) -> None:
    results = stream(server, text=LONG, seed=1, audioConfig={"audioEncoding": encoding, "sampleRateHertz": 24000})
    first = base64.b64decode(results[0]["audioContent"])
    assert first[:4] == b"RIFF"
    assert first[36:40] == b"data"
    assert len(first) > 44
    assert struct.unpack("<I", first[24:28])[0] == 24000
    assert not any(base64.b64decode(result["audioContent"]).startswith(b"RIFF") for result in results[1:])
    pcm = audio_of(stream(server, text=LONG, seed=1, audioConfig={"audioEncoding": "PCM", "sampleRateHertz": 24000}))
    assert audio_of(results)[44:] == pcm


@pytest.mark.parametrize(("encoding", "silence"), [("MULAW", 0xFF), ("ALAW", 0xD5)])
def test_g711_streams_are_bare_bytes_at_8_khz(server: Served, encoding: str, silence: int) -> None:
    server.script.render = lambda utterance, block, count: np.zeros(count, np.float32)
    data = audio_of(stream(server, audioConfig={"audioEncoding": encoding}))
    assert len(data) / 8000 == pytest.approx(
        len(audio_of(stream(server, audioConfig={"audioEncoding": "PCM"}))) / 88200, abs=0.01
    )
    assert set(data) <= {silence, silence ^ 0x80}


@pytest.mark.parametrize(("encoding", "kind"), [("MP3", "MP3"), ("OGG_OPUS", "OGG"), ("FLAC", "FLAC")])
def test_compressed_lines_are_pieces_of_one_continuous_file(server: Served, encoding: str, kind: str) -> None:
    data = audio_of(stream(server, text=LONG, audioConfig={"audioEncoding": encoding}))
    if kind == "FLAC":
        assert data[:4] == b"fLaC"
        assert data.count(b"fLaC") == 1
    else:
        assert soundfile.info(io.BytesIO(data)).format == kind
        samples, rate = soundfile.read(io.BytesIO(data))
        wanted = len(audio_of(stream(server, text=LONG, audioConfig={"audioEncoding": "PCM"}))) / 88200
        assert len(samples) / rate == pytest.approx(wanted, abs=0.15)


@pytest.mark.parametrize("strategy", [None, "SYNC", "TIMESTAMP_TRANSPORT_STRATEGY_UNSPECIFIED"])
def test_sync_timestamps_travel_with_the_last_audio(server: Served, strategy: str | None) -> None:
    config = {"audioEncoding": "PCM", "sampleRateHertz": 24000}
    results = stream(server, text=LONG, timestampType="WORD", timestampTransportStrategy=strategy, audioConfig=config)
    assert ["timestampInfo" in result for result in results] == [False] * (len(results) - 1) + [True]
    assert all("audioContent" in result for result in results)
    words = check_alignment(results[-1]["timestampInfo"], len(audio_of(results)) / 2 / 24000)
    assert words == LONG.split()


def test_async_timestamps_have_a_line_of_their_own_at_the_end(server: Served) -> None:
    config = {"audioEncoding": "PCM", "sampleRateHertz": 24000}
    results = stream(
        server, text=LONG, timestampType="CHARACTER", timestampTransportStrategy="ASYNC", audioConfig=config
    )
    assert list(results[-1]) == ["timestampInfo"]
    assert not any("timestampInfo" in result for result in results[:-1])
    characters = check_alignment(results[-1]["timestampInfo"], len(audio_of(results)) / 2 / 24000)
    assert characters == list(LONG.strip())


def test_asking_for_timestamps_changes_no_audio(server: Served) -> None:
    config = {"audioEncoding": "PCM"}
    bare = stream(server, seed=3, audioConfig=config)
    timed = stream(server, seed=3, audioConfig=config, timestampType="WORD")
    assert audio_of(bare) == audio_of(timed)


def test_streamed_and_whole_are_the_same_audio(server: Served) -> None:
    config = {"audioEncoding": "PCM"}
    whole = speak(server, seed=3, audioConfig=config)
    assert base64.b64decode(whole["audioContent"]) == audio_of(stream(server, seed=3, audioConfig=config))


def test_the_first_line_leaves_while_the_rest_is_being_made(server: Served) -> None:
    server.script.render = gate = Gate(block=1)
    body = {"text": LONG, "voiceId": "anna", "timestampType": "WORD", "audioConfig": {"audioEncoding": "PCM"}}
    with httpx.stream("POST", server.url + "/tts/v1/voice:stream", json=body) as answer:
        lines = answer.iter_lines()
        assert "audioContent" in json.loads(next(lines))["result"]
        gate.open()
        assert "timestampInfo" in json.loads(list(lines)[-1])["result"]


def test_a_late_failure_is_a_last_line_with_an_error(server: Served) -> None:
    server.script.fail_after_blocks = 1
    body = {"text": LONG, "voiceId": "anna"}
    answer = httpx.post(server.url + "/tts/v1/voice:stream", json=body)
    assert answer.status_code == 200
    *results, last = [json.loads(line) for line in answer.text.splitlines()]
    assert results
    assert all("result" in line for line in results)
    assert last == {"error": {"code": 13, "message": "Generation failed.", "details": []}}


def test_a_client_that_leaves_in_the_middle_frees_its_slot(server: Served) -> None:
    server.script.render = gate = Gate(block=1)
    body = {"text": LONG, "voiceId": "anna", "audioConfig": {"audioEncoding": "PCM"}}
    with httpx.stream("POST", server.url + "/tts/v1/voice:stream", json=body) as answer:
        lines = answer.iter_lines()  # httpx hangs up when this goes
        assert next(lines)
        assert gate.reached.wait(PATIENCE_S)
        assert server.open_requests == 1
    wait_until(lambda: server.open_requests == 0)
    gate.open()
    wait_until(lambda: len(server.script.cancelled) == 1)
