"""The official Python SDK against a real server."""

import io
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest
import soundfile
from openai import OpenAI

from tests.contract.serving import PATIENCE_S, Gate, Serve, Served

pytestmark = pytest.mark.slow  # a foreign client

TEXT = "The quick brown fox jumps over the lazy dog, and then it rests."  # two blocks of the fake's audio


@pytest.fixture
def client(server: Served) -> Iterator[OpenAI]:
    with connect(server) as client:
        yield client


def connect(server: Served, key: str = "abc123", retries: int = 0) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=retries)


def speak(client: OpenAI, **options: Any) -> bytes:
    request: dict[str, Any] = {"model": "gpt-4o-mini-tts", "voice": "anna", "input": TEXT, **options}
    return client.audio.speech.create(**request).content


def test_pcm_arrives_while_it_is_made_at_openais_rate(server: Served, client: OpenAI) -> None:
    server.script.render = gate = Gate(block=1)
    with client.audio.speech.with_streaming_response.create(
        model="gpt-4o-mini-tts", voice="anna", input=TEXT, response_format="pcm"
    ) as response:
        pieces = response.iter_bytes()
        first = next(pieces)
        gate.open()
        audio = first + b"".join(pieces)
        headers = response.headers
    assert not gate.expired
    assert len(audio) % 2 == 0
    assert len(audio) / 2 / 24_000 == pytest.approx(len(TEXT) * server.script.audio_s_per_char, rel=0.1)
    assert headers["content-type"] == "audio/pcm"
    assert headers["x-audio-sample-rate"] == "24000"
    assert headers["x-audio-channels"] == "1"
    assert headers["x-audio-format"] == "s16le"
    assert headers["x-speed-applied"] == "1.0"
    assert headers["x-accel-buffering"] == "no"
    assert headers["cache-control"] == "no-cache"
    assert headers["transfer-encoding"] == "chunked"
    assert "content-length" not in headers
    assert int(headers["x-seed"]) >= 0
    assert headers["x-request-id"]


def test_wav_is_whole_with_a_44_byte_header_and_true_sizes(client: OpenAI) -> None:
    response = client.audio.speech.with_raw_response.create(
        model="tts-1", voice="bob", input=TEXT, response_format="wav"
    )
    audio = response.content
    assert response.headers["content-type"] == "audio/wav"
    assert int(response.headers["content-length"]) == len(audio)
    assert response.headers["x-rerolls"] == "0"
    riff, size, wave, fmt, fmt_size, tag, channels, rate = struct.unpack("<4sI4s4sIHHI", audio[:28])
    assert (riff, wave, fmt, fmt_size, tag, channels) == (b"RIFF", b"WAVE", b"fmt ", 16, 1, 1)
    assert audio[36:40] == b"data"
    assert (size, struct.unpack("<I", audio[40:44])[0]) == (len(audio) - 8, len(audio) - 44)
    assert response.headers["x-audio-sample-rate"] == str(rate) == "44100"
    assert float(response.headers["x-audio-duration"]) == pytest.approx((len(audio) - 44) / 2 / rate, abs=0.001)
    assert "x-audio-format" not in response.headers


def test_the_default_format_is_mp3_and_says_so(client: OpenAI) -> None:
    response = client.audio.speech.with_raw_response.create(model="tts-1", voice="alloy", input=TEXT)
    assert response.headers["content-type"] == "audio/mpeg"
    samples, rate = soundfile.read(io.BytesIO(response.content), dtype="float32")
    assert response.headers["x-audio-sample-rate"] == str(rate)
    assert np.abs(samples).max() > 0.1


@pytest.mark.parametrize(
    ("response_format", "content_type", "magic"),
    [
        ("mp3", "audio/mpeg", b"\xff"),
        ("opus", "audio/opus", b"OggS"),
        ("aac", "audio/aac", b"\xff\xf1"),
        ("flac", "audio/flac", b"fLaC"),
    ],
)
def test_every_format_has_its_content_type_and_bytes(
    client: OpenAI, response_format: Any, content_type: str, magic: bytes
) -> None:
    response = client.audio.speech.with_raw_response.create(
        model="tts-1", voice="anna", input=TEXT, response_format=response_format
    )
    assert response.headers["content-type"] == content_type
    assert response.content.startswith(magic)
    assert "content-length" not in response.headers
    whole = client.audio.speech.with_raw_response.create(
        model="tts-1", voice="anna", input=TEXT, response_format=response_format, extra_body={"stream": False}
    )
    assert int(whole.headers["content-length"]) == len(whole.content)
    assert whole.content.startswith(magic)


def test_a_whole_flac_says_how_long_it_is(client: OpenAI) -> None:
    audio = speak(client, response_format="flac", extra_body={"stream": False})
    info = soundfile.info(io.BytesIO(audio))
    assert info.frames / info.samplerate == pytest.approx(len(TEXT) * 0.06, rel=0.1)


def test_the_same_seed_repeats_the_audio_and_another_does_not(client: OpenAI) -> None:
    def with_seed(seed: int) -> bytes:
        return speak(client, response_format="pcm", extra_body={"seed": seed})

    assert with_seed(42) == with_seed(42)
    assert with_seed(42) != with_seed(43)


def test_the_seed_really_used_is_reported_and_repeats(client: OpenAI) -> None:
    def raw(**options: Any) -> Any:
        return client.audio.speech.with_raw_response.create(
            model="tts-1", voice="anna", input=TEXT, response_format="pcm", **options
        )

    drawn = raw()
    again = raw(extra_body={"seed": int(drawn.headers["x-seed"])})
    assert again.content == drawn.content
    assert again.headers["x-seed"] == drawn.headers["x-seed"]
    assert raw(extra_body={"seed": -1}).headers["x-seed"] != "-1"


def test_options_reach_the_engine(server: Served, client: OpenAI) -> None:
    options = {"block_sizes": [16, 48], "num_steps": [4, 6], "cfg_scale_text": 2, "preset": "low"}
    speak(client, response_format="pcm", extra_body=options)
    plan = server.script.spoken[0].plan
    assert [(block.size, block.steps) for block in plan.blocks] == [(16, 4), (48, 6)]
    assert plan.params.cfg_scale_text == 2


def test_speed_is_applied(client: OpenAI) -> None:
    response = client.audio.speech.with_raw_response.create(
        model="tts-1", voice="anna", input=TEXT, response_format="wav", speed=2.0
    )
    assert response.headers["x-speed-applied"] == "2.0"
    assert float(response.headers["x-audio-duration"]) == pytest.approx(len(TEXT) * 0.06 / 2, rel=0.15)


@pytest.mark.parametrize("voice", ["alloy", "ash", "verse", "ANNA", "oldman", "bob.wav", {"id": "bob"}])
def test_voices_are_found_by_the_names_that_clients_use(client: OpenAI, voice: Any) -> None:
    assert speak(client, voice=voice, response_format="pcm")


def test_an_unknown_voice_is_a_bad_request(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        speak(client, voice="nobody")
    assert refused.value.code == "voice_not_found"
    assert refused.value.param == "voice"
    assert refused.value.type == "invalid_request_error"
    assert "nobody" in refused.value.message
    assert refused.value.request_id


@pytest.mark.parametrize(
    ("options", "param", "code"),
    [
        ({"input": "   "}, "input", "missing_required_parameter"),
        ({"input": "x" * 4097}, "input", "string_above_max_length"),
        ({"response_format": "ogg"}, "response_format", "unsupported_format"),
        ({"speed": 5}, "speed", "invalid_value"),
        ({"speed": 0.2}, "speed", "invalid_value"),
        ({"instructions": "x" * 4097}, "instructions", "string_above_max_length"),
        ({"extra_body": {"seed": True}}, "seed", "invalid_type"),
        ({"extra_body": {"seed": "7"}}, "seed", "invalid_type"),
        ({"extra_body": {"sample_rate": 12345}}, "sample_rate", "invalid_value"),
        ({"extra_body": {"stream_format": "json"}}, "stream_format", "invalid_value"),
        ({"extra_body": {"cfg_min_t": 0.9, "cfg_max_t": 0.1}}, "cfg_min_t", "invalid_value"),
        ({"extra_body": {"preset": "nothing"}}, "preset", "invalid_value"),
        ({"extra_body": {"block_sizes": [320, 321]}}, "block_sizes", "invalid_value"),
    ],
)
def test_a_wrong_field_is_a_bad_request_that_names_it(
    client: OpenAI, options: dict[str, Any], param: str, code: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        speak(client, **options)
    assert (refused.value.param, refused.value.code) == (param, code)


def test_unknown_fields_are_ignored(client: OpenAI) -> None:
    assert speak(client, extra_body={"backend": "x", "language": "en", "temperature": "hot", "lang_code": None})


def test_a_full_queue_is_a_rate_limit_error_with_a_time_to_wait(serve: Serve) -> None:
    server = serve(max_concurrent=1, max_queue=0)
    server.script.render = gate = Gate()
    with connect(server) as client:
        with server.send({"input": TEXT}):
            assert gate.reached.wait(PATIENCE_S)
            with pytest.raises(openai.RateLimitError) as refused:
                speak(client)
            gate.open()
        assert (refused.value.code, refused.value.type) == ("queue_full", "rate_limit_error")
        assert int(refused.value.response.headers["retry-after"]) >= 1
        server.wait_idle()
        assert speak(client)


def test_a_wrong_key_is_an_authentication_error(serve: Serve) -> None:
    server = serve(api_keys=("right",))
    with connect(server, "wrong") as client, pytest.raises(openai.AuthenticationError) as refused:
        speak(client)
    assert refused.value.code == "invalid_api_key"
    with connect(server, "right") as client:
        assert speak(client)


def test_a_model_that_does_not_exist_is_a_not_found_error(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("gpt-9")
    assert refused.value.code == "model_not_found"


def test_models_are_listed_with_the_names_that_clients_offer(client: OpenAI) -> None:
    models = {model.id: model for model in client.models.list()}
    assert {"echo-tts", "tts-1", "tts-1-hd", "gpt-4o-mini-tts"} <= set(models)
    assert client.models.retrieve("tts-1") == models["tts-1"]
    assert models["tts-1"].object == "model"
    assert isinstance(models["tts-1"].created, int)


def test_a_failed_generation_is_a_server_error_that_the_sdk_does_not_repeat(server: Served) -> None:
    server.script.fail_before = True
    with connect(server, retries=2) as client, pytest.raises(openai.InternalServerError) as failed:
        speak(client)
    assert failed.value.code == "generation_failed"
    assert len(server.script.spoken) == 1


def test_a_failure_after_the_first_byte_is_an_error_and_not_a_short_file(server: Served, client: OpenAI) -> None:
    server.script.fail_after_blocks = 1
    with pytest.raises(openai.APIConnectionError):
        speak(client, response_format="pcm")
