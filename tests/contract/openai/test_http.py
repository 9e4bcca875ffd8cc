"""The wire itself: curl, bodies, headers, keys, events, lists."""

import base64
import json
import subprocess
import wave
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.serving import Serve, Served, write_voice

TEXT = "The quick brown fox jumps over the lazy dog, and then it rests."
SPEECH = "/v1/audio/speech"


def post(server: Served, body: Any, path: str = SPEECH, **options: Any) -> httpx.Response:
    return httpx.post(server.url + path, json=body, **options)


def curl(server: Served, *arguments: str, path: str = SPEECH) -> subprocess.CompletedProcess[bytes]:
    command = ["curl", "--silent", "--show-error", "--max-time", "20", *arguments, server.url + path]
    return subprocess.run(command, capture_output=True, check=False)


# -- curl


@pytest.mark.parametrize("path", [SPEECH, SPEECH + "/"])
@pytest.mark.parametrize("header", [[], ["-H", "Content-Type: application/json"], ["-H", "Content-Type: text/plain"]])
def test_curl_gets_pcm_whatever_it_calls_its_body(server: Served, path: str, header: list[str]) -> None:
    done = curl(server, *header, "-d", json.dumps({"input": TEXT, "seed": 5}), path=path)
    assert done.returncode == 0
    assert done.stdout == post(server, {"input": TEXT, "seed": 5}).content


def test_curl_sees_a_broken_transfer(server: Served) -> None:
    server.script.fail_after_blocks = 1
    done = curl(server, "-d", json.dumps({"input": TEXT}))
    assert done.returncode == 18  # "partial file"
    assert done.stdout


def test_curl_may_send_options_nested_in_extra_body(server: Served) -> None:
    nested = {"input": TEXT, "extra_body": {"seed": 42, "block_sizes": [16, 64], "num_steps": [2, 3]}}
    flat = {"input": TEXT, "seed": 42, "block_sizes": [16, 64], "num_steps": [2, 3]}
    done = curl(server, "-d", json.dumps(nested))
    assert done.stdout == post(server, flat).content
    first, second = server.script.spoken
    assert first.plan == second.plan


# -- the body


def test_nested_options_beat_those_at_the_top(server: Served) -> None:
    answer = post(server, {"input": "x", "seed": 1, "response_format": "mp3", "extra_body": {"seed": 2, "input": TEXT}})
    assert answer.headers["x-seed"] == "2"
    assert server.script.spoken[0].text.endswith("rests.")


def test_nested_options_are_checked_alike(server: Served) -> None:
    told = post(server, {"input": TEXT, "extra_body": {"seed": "2"}}).json()["error"]
    assert (told["param"], told["code"]) == ("seed", "invalid_type")


@pytest.mark.parametrize("extra", ["seed", [1], 5, True])
def test_extra_body_must_be_an_object(server: Served, extra: Any) -> None:
    answer = post(server, {"input": TEXT, "extra_body": extra})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "extra_body"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b'{"input": NaN}', "invalid_json"),
        (b'{"input": "\xff"}', "invalid_json"),
        (b'{"input": "\\ud800"}', "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b"input=hello", "invalid_json"),
        (b"[]", "invalid_type"),
        (b'"text"', "invalid_type"),
        (b"null", "invalid_type"),
        (b"{}", "missing_required_parameter"),
        (b'{"input": null}', "invalid_type"),
    ],
)
def test_a_body_that_is_no_request_is_refused_in_openais_shape(server: Served, data: bytes, code: str) -> None:
    answer = httpx.post(server.url + SPEECH, content=data)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/json"
    told = answer.json()["error"]
    assert set(told) == {"message", "type", "param", "code"}
    assert told["code"] == code


def test_null_is_the_same_as_absent(server: Served) -> None:
    fields = (
        "voice",
        "model",
        "speed",
        "instructions",
        "stream_format",
        "stream",
        "sample_rate",
        "preset",
        "extra_body",
    )
    assert post(server, {"input": TEXT, "seed": None, **dict.fromkeys(fields)}).headers["content-type"] == "audio/pcm"


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_above_the_limit_is_refused(serve: Serve, chunked: bool) -> None:
    server = serve(max_body_bytes=2048)
    data = json.dumps({"input": "x" * 3000}).encode()
    parts = iter([data[:1500], data[1500:]]) if chunked else data
    answer = httpx.post(server.url + SPEECH, content=parts)
    assert answer.status_code == 413
    told = answer.json()["error"]
    assert (told["code"], told["type"]) == ("request_too_large", "invalid_request_error")
    assert "2048" in told["message"]
    assert answer.headers["x-request-id"]
    assert post(server, {"input": TEXT}).status_code == 200


@pytest.mark.parametrize("prefix", ["", "data:audio/wav;base64,"])
def test_a_voice_may_come_as_base64(server: Served, tmp_path: Path, prefix: str) -> None:
    write_voice(tmp_path / "clip.wav")
    voice = prefix + base64.b64encode((tmp_path / "clip.wav").read_bytes()).decode()
    assert post(server, {"input": TEXT, "voice": voice}).status_code == 200
    assert server.script.spoken[0].voice is not None


def test_a_voice_above_its_limit_is_too_large(serve: Serve, tmp_path: Path) -> None:
    server = serve(max_voice_bytes=10_000)
    write_voice(tmp_path / "clip.wav")
    voice = base64.b64encode((tmp_path / "clip.wav").read_bytes()).decode()
    answer = post(server, {"input": TEXT, "voice": voice})
    assert answer.status_code == 413
    assert (answer.json()["error"]["param"], answer.json()["error"]["code"]) == ("voice", "request_too_large")


def test_base64_that_is_no_audio_is_a_bad_voice(server: Served) -> None:
    answer = post(server, {"input": TEXT, "voice": base64.b64encode(b"text " * 1000).decode()})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "voice")


@pytest.mark.parametrize(
    "voice", ["../anna", "/etc/passwd", "anna\x00", "anna/../bob", "..", 5, [], {"name": "x"}, True]
)
def test_a_voice_that_is_none_is_a_bad_request(server: Served, voice: Any) -> None:
    answer = post(server, {"input": TEXT, "voice": voice})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "voice")


# -- formats and rates


@pytest.mark.parametrize(
    ("body", "query", "rate"),
    [
        ({}, "", "44100"),
        ({"model": "tts-1", "response_format": "pcm"}, "", "24000"),
        ({"model": "tts-1", "response_format": "pcm", "sample_rate": 16000}, "", "16000"),
        ({}, "?sample_rate=8000", "8000"),
        ({"sample_rate": 22050}, "?sample_rate=8000", "22050"),
        ({"response_format": "wav"}, "?sample_rate=48000", "48000"),
        ({"response_format": "opus", "sample_rate": 16000}, "", "48000"),
    ],
)
def test_the_rate_header_tells_the_truth(server: Served, body: dict[str, Any], query: str, rate: str) -> None:
    answer = post(server, {"input": TEXT, **body}, SPEECH + query)
    assert answer.headers["x-audio-sample-rate"] == rate
    seconds = len(TEXT) * server.script.audio_s_per_char
    if answer.headers["content-type"] == "audio/pcm":
        assert len(answer.content) / 2 / int(rate) == pytest.approx(seconds, rel=0.1)
    if answer.headers["content-type"] == "audio/wav":
        with wave.open(BytesIO(answer.content)) as file:
            assert file.getframerate() == int(rate)


@pytest.mark.parametrize("query", ["?sample_rate=44000", "?sample_rate=", "?sample_rate=abc", "?sample_rate=-8000"])
def test_a_rate_in_the_query_is_checked_too(server: Served, query: str) -> None:
    answer = post(server, {"input": TEXT}, SPEECH + query)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "sample_rate")


def test_the_operator_may_set_the_rate_of_pcm_and_progressive_wav(serve: Serve) -> None:
    server = serve(pcm_sample_rate=16000, wav_streaming=True)
    assert post(server, {"input": TEXT, "model": "tts-1", "response_format": "pcm"}).headers["x-audio-sample-rate"] == (
        "16000"
    )
    progressive = post(server, {"input": TEXT, "response_format": "wav"})
    assert progressive.content[4:8] == progressive.content[40:44] == b"\xff\xff\xff\xff"
    assert "content-length" not in progressive.headers
    whole = post(server, {"input": TEXT, "response_format": "wav", "wav_streaming": False})
    assert int.from_bytes(whole.content[40:44], "little") == len(whole.content) - 44


def test_one_body_of_pcm_has_its_length(server: Served) -> None:
    answer = post(server, {"input": TEXT, "response_format": "pcm", "stream": False})
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert answer.headers["x-audio-format"] == "s16le"
    assert float(answer.headers["x-audio-duration"]) == pytest.approx(len(answer.content) / 2 / 44_100, abs=0.001)


# -- events


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    lines = answer.text.split("\n\n")
    assert lines.pop() == ""
    assert all(line.startswith("data: ") and "\n" not in line for line in lines)
    return [json.loads(line.removeprefix("data: ")) for line in lines]


@pytest.mark.parametrize("response_format", ["pcm", "mp3", "wav", "flac"])
def test_events_carry_one_valid_file_and_end_with_the_usage(server: Served, response_format: str) -> None:
    body = {"input": TEXT, "seed": 3, "model": "gpt-4o-mini-tts", "response_format": response_format}
    answer = post(server, {**body, "stream_format": "sse"})
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["x-audio-sample-rate"]
    *deltas, done = events(answer)
    assert {event["type"] for event in deltas} == {"speech.audio.delta"}
    assert all(len(event["audio"]) < 64 * 1024 for event in deltas)
    audio = b"".join(base64.b64decode(event["audio"], validate=True) for event in deltas)
    assert audio == post(server, {**body, "wav_streaming": True}).content
    assert done["type"] == "speech.audio.done"
    usage = done["usage"]
    assert usage["input_tokens"] == -(-len(TEXT) // 4)
    assert usage["output_tokens"] == pytest.approx(len(TEXT) * 0.06 / 0.0464, rel=0.1)
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


def test_a_failure_among_events_is_an_event(server: Served) -> None:
    server.script.fail_after_blocks = 1
    *deltas, last = events(post(server, {"input": TEXT, "stream_format": "sse"}))
    assert {event["type"] for event in deltas} == {"speech.audio.delta"}
    assert set(last) == {"error"}
    assert set(last["error"]) == {"message", "type", "param", "code"}
    assert last["error"]["code"] == "generation_failed"


def test_a_failure_before_the_first_event_has_a_status(server: Served) -> None:
    server.script.fail_before = True
    assert post(server, {"input": TEXT, "stream_format": "sse"}).status_code == 500


# -- paths, methods, headers


@pytest.mark.parametrize("path", ["/nothing", "/v1/audio", "/v1/test", "/v1/readyz", "/v1/audio/speech/x"])
def test_an_unknown_path_is_404_in_openais_shape(server: Served, path: str) -> None:
    answer = httpx.get(server.url + path)
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert answer.headers["x-request-id"]


def test_a_wrong_method_is_405_and_names_the_right_one(server: Served) -> None:
    answer = httpx.get(server.url + SPEECH)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_a_request_id_is_echoed_on_success_and_failure(server: Served) -> None:
    for body in ({"input": TEXT}, {}):
        assert post(server, body, headers={"X-Request-Id": "mine-1"}).headers["x-request-id"] == "mine-1"


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer right"},
        {"Authorization": "Basic right"},
        {"Authorization": "Basic " + base64.b64encode(b"user:right").decode()},
        {"xi-api-key": "right"},
        {"api-key": "right"},
    ],
)
def test_a_key_opens_the_server_in_every_form(serve: Serve, headers: dict[str, str]) -> None:
    server = serve(api_keys=("other", "right"))
    assert post(server, {"input": TEXT}, headers=headers).status_code == 200
    refused = post(server, {"input": TEXT})
    assert refused.status_code == 401
    assert refused.json()["error"]["code"] == "invalid_api_key"
    assert refused.headers["www-authenticate"] == "Bearer"
    assert httpx.get(f"{server.url}/v1/voices").status_code == 401
    for path in ("/", "/health", "/ready"):
        assert httpx.get(server.url + path).status_code == 200


def test_browsers_of_the_named_origin_may_call_and_read_the_headers(serve: Serve) -> None:
    server = serve(cors_origins=("https://app.example",), api_keys=("right",))
    origin = {"Origin": "https://app.example"}
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    preflight = httpx.options(server.url + SPEECH, headers={**origin, **asked})
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "https://app.example"
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
    answer = post(server, {"input": TEXT}, headers={**origin, "Authorization": "Bearer right"})
    exposed = answer.headers["access-control-expose-headers"].lower()
    assert {"x-audio-sample-rate", "x-seed", "x-request-id"} <= set(exposed.split(", "))
    refused = post(server, {"input": TEXT}, headers=origin)
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "https://app.example"
    stranger = post(server, {"input": TEXT}, headers={"Origin": "https://other", "Authorization": "Bearer right"})
    assert "access-control-allow-origin" not in stranger.headers


def test_without_configured_origins_browsers_are_not_invited(server: Served) -> None:
    answer = post(server, {"input": TEXT}, headers={"Origin": "https://app.example"})
    assert "access-control-allow-origin" not in answer.headers


# -- lists and operation


def get(server: Served, path: str) -> Any:
    answer = httpx.get(server.url + path)
    assert answer.status_code == 200
    return answer.json()


@pytest.mark.parametrize("slash", ["", "/"])
def test_voices_are_listed_in_every_form(server: Served, slash: str) -> None:
    names = ["anna", "bob", "Old Man"]
    listed = get(server, "/v1/voices" + slash)
    assert listed["object"] == "list"
    assert listed["data"] == [{"object": "voice", "id": name, "name": name, "models": ["echo-tts"]} for name in names]
    assert listed["voices"] == [{"voice_id": name, "name": name, "category": "premade"} for name in names]
    own = [{"id": name, "name": name, "value": name, "label": name} for name in names]
    assert get(server, "/v1/audio/voices" + slash) == {"voices": own, "uploaded_voices": []}
    assert get(server, f"/v1/audio/voices{slash}?legacy=true") == {"voices": names, "uploaded_voices": []}
    assert get(server, "/v1/audio/voices/some/model" + slash) == {"voices": own, "uploaded_voices": []}


def test_a_wrong_query_is_refused_in_openais_shape(server: Served) -> None:
    answer = httpx.get(f"{server.url}/v1/audio/voices?legacy=perhaps")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "legacy"


def test_voices_come_and_go_while_the_server_runs(serve: Serve, tmp_path: Path) -> None:
    write_voice(tmp_path / "carl.wav")
    server = serve(voices_dir=(str(tmp_path),))
    write_voice(tmp_path / "dora.wav")
    assert [voice["id"] for voice in get(server, "/v1/voices")["data"]] == ["carl", "dora"]
    assert post(server, {"input": TEXT, "voice": "dora"}).status_code == 200
    (tmp_path / "dora.wav").unlink()
    assert [voice["id"] for voice in get(server, "/v1/voices")["data"]] == ["carl"]
    assert post(server, {"input": TEXT, "voice": "dora"}).json()["error"]["code"] == "voice_not_found"


def test_models_are_listed_with_their_licence(server: Served) -> None:
    listed = get(server, "/v1/models")
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["echo-tts", "tts-1", "tts-1-hd", "gpt-4o-mini-tts"]
    assert all(model["license"] == "none" for model in listed["data"])
    assert get(server, "/v1/audio/models") == {"models": [{"id": model["id"]} for model in listed["data"]]}
    missing = httpx.get(f"{server.url}/v1/models/gpt-9")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


def test_health_has_what_every_client_looks_for(server: Served) -> None:
    post(server, {"input": TEXT, "voice": "anna"})
    health = get(server, "/health")
    assert health["status"] == "healthy"
    assert health["model_loaded"] is True
    assert (health["device"], health["backend"]) == ("cpu", "fake")
    assert health["cached_voices"] >= 1
    assert health["cached_paths"] >= 0
    assert health["version"]
    assert {"default", "low_mid", "low", "equal"} <= set(health["presets"])


def test_ready_root_and_metrics_answer(server: Served) -> None:
    assert get(server, "/ready") == {"status": "ready"}
    root = get(server, "/")
    assert root["name"] == "Echo TTS Server"
    assert httpx.get(server.url + root["docs"]).status_code == 200
    post(server, {"input": TEXT})
    metrics = httpx.get(f"{server.url}/metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'echo_requests_total{model_name="echo-tts",outcome="done"}' in metrics.text


def test_the_api_describes_itself(server: Served) -> None:
    described = get(server, "/openapi.json")
    speech = described["paths"][SPEECH]["post"]
    fields = speech["requestBody"]["content"]["application/json"]["schema"]["properties"]
    assert {"input", "voice", "block_sizes", "seed", "sample_rate"} <= set(fields)
    ours = [path for path in described["paths"] if path.startswith("/v1/")]
    assert all("422" not in json.dumps(described["paths"][path]) for path in ours)
    assert "$defs" not in json.dumps(speech)
