"""POST /tts/v1/voice: the whole answer in one JSON object."""

from __future__ import annotations

import base64
import io
import struct
import threading
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
import soundfile

from echo.types import Audio, Utterance
from tests.contract.inworld.calls import check_alignment, post, speak
from tests.contract.serving import PATIENCE_S, Gate, Serve, Served


def _audio(answer: dict[str, str]) -> bytes:
    return base64.b64decode(answer["audioContent"], validate=True)


def _format_tag(data: bytes) -> int:
    return int(struct.unpack("<H", data[20:22])[0])


def test_the_answer_has_audio_and_usage_and_nothing_else(server: Served) -> None:
    answer = speak(server, modelId="inworld-tts-1.5-max")
    assert sorted(answer) == ["audioContent", "usage"]
    assert answer["usage"] == {"processedCharactersCount": 13, "modelId": "inworld-tts-1.5-max"}


def test_the_default_is_mp3(server: Served) -> None:
    info = soundfile.info(io.BytesIO(_audio(speak(server))))
    assert (info.format, info.samplerate, info.channels) == ("MP3", 44100, 1)


@pytest.mark.parametrize("encoding", ["LINEAR16", "WAV"])
def test_wav_encodings_are_one_file_with_a_44_byte_header_and_true_sizes(server: Served, encoding: str) -> None:
    data = _audio(speak(server, audioConfig={"audioEncoding": encoding, "sampleRateHertz": 22050}))
    riff, size, wave, fmt, fmt_size, tag, channels, rate = struct.unpack("<4sI4s4sIHHI", data[:28])
    assert (riff, wave, fmt, fmt_size, tag, channels, rate) == (b"RIFF", b"WAVE", b"fmt ", 16, 1, 1, 22050)
    assert data[36:40] == b"data"
    assert size == len(data) - 8
    assert struct.unpack("<I", data[40:44])[0] == len(data) - 44


def test_pcm_is_the_same_audio_without_a_header(server: Served) -> None:
    wav = _audio(speak(server, seed=5, audioConfig={"audioEncoding": "LINEAR16"}))
    pcm = _audio(speak(server, seed=5, audioConfig={"audioEncoding": "PCM"}))
    assert wav[44:] == pcm


@pytest.mark.parametrize(("encoding", "kind"), [("OGG_OPUS", "OGG"), ("FLAC", "FLAC"), ("MP3", "MP3")])
def test_compressed_encodings_are_complete_files(server: Served, encoding: str, kind: str) -> None:
    data = _audio(speak(server, audioConfig={"audioEncoding": encoding}))
    samples, rate = soundfile.read(io.BytesIO(data))
    assert soundfile.info(io.BytesIO(data)).format == kind
    assert abs(len(samples) / rate - 1.0) < 0.5
    assert np.abs(samples).max() > 0.1


@pytest.mark.parametrize(("encoding", "tag"), [("MULAW", 7), ("ALAW", 6)])
def test_g711_has_a_wav_header_and_telephone_rate(server: Served, encoding: str, tag: int) -> None:
    data = _audio(speak(server, audioConfig={"audioEncoding": encoding}))
    assert data[:4] == b"RIFF"
    assert _format_tag(data) == tag
    assert soundfile.info(io.BytesIO(data)).samplerate == 8000


@pytest.mark.parametrize("rate", [8000, 16000, 24000, 32000, 48000])
def test_the_sample_rate_is_the_one_asked_for(server: Served, rate: int) -> None:
    config = {"audioEncoding": "WAV", "sampleRateHertz": rate}
    info = soundfile.info(io.BytesIO(_audio(speak(server, audioConfig=config))))
    assert info.samplerate == rate


def test_a_faster_speaking_rate_shortens_the_audio(server: Served) -> None:
    normal = _audio(speak(server, audioConfig={"audioEncoding": "PCM"}))
    fast = _audio(speak(server, audioConfig={"audioEncoding": "PCM", "speakingRate": 1.5}))
    assert len(fast) / len(normal) == pytest.approx(1 / 1.5, rel=0.05)


def test_the_same_seed_repeats_the_audio_and_is_reported(server: Served) -> None:
    body = {"text": "Hi", "voiceId": "anna", "seed": 42, "audioConfig": {"audioEncoding": "PCM"}}
    first, second = post(server, "/tts/v1/voice", body), post(server, "/tts/v1/voice", body)
    assert first.headers["X-Seed"] == "42"
    assert first.json() == second.json()


def test_engine_options_reach_the_engine_in_either_spelling(server: Served) -> None:
    speak(server, numSteps=3, block_sizes=[64, 64], cfgScaleText=2.5)
    plan = server.script.spoken[-1].plan
    assert [(block.size, block.steps) for block in plan.blocks] == [(64, 3), (64, 3)]
    assert plan.params.cfg_scale_text == 2.5


@pytest.mark.parametrize(("kind", "key"), [("WORD", "wordAlignment"), ("CHARACTER", "characterAlignment")])
def test_timestamps_come_when_asked_for(server: Served, kind: str, key: str) -> None:
    config = {"audioEncoding": "PCM", "sampleRateHertz": 24000}
    answer = speak(server, text="Hello, big world.", timestampType=kind, audioConfig=config)
    duration = len(_audio(answer)) / 2 / 24000
    assert set(answer["timestampInfo"]) == {key, "timestamps_method"}
    items = check_alignment(answer["timestampInfo"], duration)
    assert items == (["Hello,", "big", "world."] if kind == "WORD" else list("Hello, big world."))


@pytest.mark.parametrize("rate", [0.5, 1.0, 1.5])
def test_timestamps_cover_the_speech_that_is_heard(server: Served, rate: float) -> None:
    def late(utterance: Utterance, block: int, count: int) -> Audio:
        audio = np.full(count, 0.3, np.float32)
        audio[: count // 2] = 0.0
        return audio

    server.script.render = late
    config = {"audioEncoding": "PCM", "sampleRateHertz": 24000, "speakingRate": rate}
    answer = speak(server, text="Hello, world.", timestampType="WORD", audioConfig=config)
    heard = np.flatnonzero(np.abs(np.frombuffer(_audio(answer), "<i2")) > 1000) / 24000
    check_alignment(answer["timestampInfo"], len(_audio(answer)) / 2 / 24000)
    alignment = answer["timestampInfo"]["wordAlignment"]
    assert alignment["wordStartTimeSeconds"][0] == pytest.approx(heard[0], abs=0.1)
    assert alignment["wordEndTimeSeconds"][-1] == pytest.approx(heard[-1], abs=0.1)


@pytest.mark.parametrize(
    ("body", "status", "code", "named"),
    [
        ({"voiceId": "anna"}, 400, 3, "text"),
        ({"text": "", "voiceId": "anna"}, 400, 3, "text"),
        ({"text": "  \n", "voiceId": "anna"}, 400, 3, "text"),
        ({"text": "x" * 2001, "voiceId": "anna"}, 400, 3, "text"),
        ({"text": ["Hi"], "voiceId": "anna"}, 400, 3, "text"),
        ({"text": "Hi"}, 400, 3, "voiceId"),
        ({"text": "Hi", "voiceId": ""}, 400, 3, "voiceId"),
        ({"text": "Hi", "voiceId": "nobody"}, 404, 5, "nobody"),
        ({"text": "Hi", "voiceId": "anna", "audioConfig": {"audioEncoding": "X"}}, 400, 3, "audioConfig.audioEncoding"),
        ({"text": "Hi", "voiceId": "anna", "audioConfig": {"sampleRateHertz": 96000}}, 400, 3, "sampleRateHertz"),
        ({"text": "Hi", "voiceId": "anna", "audio_config": {"speaking_rate": 3}}, 400, 3, "speakingRate"),
        ({"text": "Hi", "voiceId": "anna", "block_sizes": [9999]}, 400, 3, "blockSizes"),
        ({"text": "Hi", "voiceId": "anna", "seed": "x"}, 400, 3, "seed"),
        ([], 400, 3, "object"),
    ],
)
@pytest.mark.parametrize("path", ["/tts/v1/voice", "/tts/v1/voice:stream"])
def test_a_wrong_request_is_refused_with_an_rpc_status(
    server: Served, path: str, body: object, status: int, code: int, named: str
) -> None:
    answer = post(server, path, body)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()
    assert sorted(error) == ["code", "details", "message"]
    assert (error["code"], error["details"]) == (code, [])
    assert named in error["message"]


def test_two_thousand_characters_are_allowed(server: Served) -> None:
    server.script.audio_s_per_char = 0.001
    assert speak(server, text="word " * 400)["usage"]["processedCharactersCount"] == 2000


def test_the_limit_is_the_operators(serve: Serve) -> None:
    server = serve(inworld_max_text_chars=5)
    answer = post(server, "/tts/v1/voice", {"text": "Hello!", "voiceId": "anna"})
    assert (answer.status_code, answer.json()["message"]) == (400, "text: must have 1 to 5 characters.")


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 50_000, b'{"text":"\\ud800","voiceId":"anna"}', b"\xff\xfe"])
def test_what_is_not_json_is_refused(server: Served, content: bytes) -> None:
    answer = httpx.post(server.url + "/tts/v1/voice", content=content)
    assert (answer.status_code, answer.json()["code"]) == (400, 3)


def test_json_is_read_whatever_its_content_type_says(server: Served) -> None:
    content = b'{"text":"Hi","voiceId":"anna"}'
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        answer = httpx.post(server.url + "/tts/v1/voice/", content=content, headers={"Content-Type": kind})
        assert answer.status_code == 200


def test_an_unknown_path_and_a_wrong_method_speak_rpc_too(server: Served) -> None:
    for method, path, status, code in (
        ("GET", "/tts/v1/nothing", 404, 5),
        ("GET", "/tts/v1/voice", 405, 12),
        ("PUT", "/voices/v1/voices", 405, 12),
        ("GET", "/voices/v1", 404, 5),
    ):
        answer = httpx.request(method, server.url + path)
        assert (answer.status_code, answer.json()["code"]) == (status, code)


@pytest.mark.parametrize("path", ["/tts/v1/voice", "/tts/v1/voice:stream"])
def test_a_full_queue_is_429_with_code_8_and_a_hint(server: Served, path: str) -> None:
    server.script.refuse = True
    answer = post(server, path, {"text": "Hi", "voiceId": "anna"})
    assert (answer.status_code, answer.json()["code"]) == (429, 8)
    assert int(answer.headers["Retry-After"]) >= 1


@pytest.mark.parametrize("path", ["/tts/v1/voice", "/tts/v1/voice:stream"])
def test_a_failure_before_the_first_byte_is_500_with_code_13(server: Served, path: str) -> None:
    server.script.fail_before = True
    answer = post(server, path, {"text": "Hi", "voiceId": "anna"})
    assert (answer.status_code, answer.json()["code"]) == (500, 13)


def test_a_loading_server_is_503_with_code_14(serve: Serve, loading: threading.Event) -> None:
    server = serve(load_engine=lambda settings, gate: loading.wait() and server.engine)  # type: ignore[arg-type,return-value]
    answer = post(server, "/tts/v1/voice", {"text": "Hi", "voiceId": "anna"})
    loading.set()
    assert (answer.status_code, answer.json()["code"]) == (503, 14)


@pytest.fixture
def loading() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_a_key_is_asked_for_and_refused_with_code_16(serve: Serve) -> None:
    server = serve(api_keys=("k-1",))
    body = {"text": "Hi", "voiceId": "anna"}
    refused = post(server, "/tts/v1/voice", body, headers={"Authorization": "Basic wrong"})
    assert (refused.status_code, refused.json()["code"]) == (401, 16)
    for value in ("Basic k-1", "Bearer k-1", "Basic " + base64.b64encode(b"user:k-1").decode()):
        assert post(server, "/tts/v1/voice", body, headers={"Authorization": value}).status_code == 200


@pytest.mark.parametrize("path", ["/tts/v1/voice", "/tts/v1/voice:stream"])
def test_a_client_that_leaves_before_the_answer_frees_its_slot(server: Served, path: str) -> None:
    server.script.render = gate = Gate()
    with server.send({"text": "Hi", "voiceId": "anna"}, path):
        assert gate.reached.wait(PATIENCE_S)
        assert server.open_requests == 1
    server.wait_idle()  # while the engine is still in the middle of a block
    gate.open()


def test_the_routes_can_be_switched_off(serve: Serve) -> None:
    server = serve(inworld_compat=False)
    assert post(server, "/tts/v1/voice", {"text": "Hi", "voiceId": "anna"}).status_code == 404
