"""Every combination of options within their ranges is served, or refused by name; and what is served can be decoded."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compat.inworld.schemas import AudioEncoding
from echo.types import SAMPLE_RATES
from routes.format import FORMATS
from tests.contract.docs.audio import decoded
from tests.contract.serving import PATIENCE_S, Served

#: The container of every format, under the names of both interfaces.
CONTAINERS = {
    **{name: name for name in ("mp3", "aac", "flac", "wav")},
    **{name: "wav" for name in ("LINEAR16", "WAV", "MULAW", "ALAW")},
    "opus": "ogg",
    "OGG_OPUS": "ogg",
    "MP3": "mp3",
    "FLAC": "flac",
}

some = settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def client(fuzzed_server: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=fuzzed_server.url, timeout=PATIENCE_S, verify=False) as opened:
        yield opened


def optional(**values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=values)


def number(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high) | st.sampled_from([low, high])


def per_block(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return values | st.lists(values, min_size=1, max_size=4)


delivery = optional(
    response_format=st.sampled_from(FORMATS),
    sample_rate=st.sampled_from(SAMPLE_RATES),
    speed=number(0.25, 4),
    stream=st.booleans(),
    stream_format=st.sampled_from(["audio", "sse"]),
    wav_streaming=st.booleans(),
    model=st.sampled_from(["tts-1", "gpt-4o-mini-tts", "echo-tts", ""]),
    seed=st.integers(-1, 2**63 - 1),
)
engine = optional(
    preset=st.sampled_from(["default", "low_mid", "low", "equal"]),
    block_sizes=st.lists(st.integers(1, 160), min_size=1, max_size=4),
    num_steps=per_block(st.integers(1, 100)),
    cfg_scale_text=number(0, 20),
    cfg_scale_speaker=number(0, 20),
    cfg_min_t=number(0, 0.5),
    cfg_max_t=number(0.5, 1),
    truncation_factor=per_block(st.floats(0, 10, exclude_min=True)),
    init_scale=per_block(st.floats(0, 1, exclude_min=True, exclude_max=True)),
    rescale_k=st.floats(0, 100, exclude_min=True),
    rescale_sigma=st.floats(0, 100, exclude_min=True),
    speaker_kv_scale=number(0.5, 3),
    speaker_kv_min_t=number(0, 1),
    speaker_kv_max_layers=st.integers(0, 24),
    early_stop_on_zero=st.booleans(),
    zero_eps=number(0, 10),
    zero_tail_frames=st.integers(1, 640),
    sequence_length=st.integers(1, 640),
    chunking_enabled=st.booleans(),
    chunk_min_seconds=number(1, 20),
    chunk_target_seconds=number(20, 40),
    chunk_max_seconds=number(40, 60),
    chunk_chars_per_second=st.floats(0, 1000, exclude_min=True),
    chunk_words_per_second=st.floats(0, 1000, exclude_min=True),
)
texts = st.lists(
    st.sampled_from(
        ["Hello there.", "Wait!!", "3.5%", "[S2]", "*sighs*", "[pause:500]", "…", "naïve", "好。", "\n\n", "A"]
    ),
    min_size=1,
    max_size=30,
).map(" ".join)
audio_config = optional(
    audioEncoding=st.sampled_from(list(AudioEncoding)),
    sampleRateHertz=st.integers(8_000, 48_000) | st.sampled_from([8_000, 11_025, 16_000, 22_050, 24_000, 48_000]),
    bitRate=st.integers(1, 10_000_000) | st.sampled_from([32_000, 64_000, 128_000]),
    speakingRate=number(0.5, 1.5),
)


def events(answer: httpx.Response) -> bytes:
    """Join the audio of server-sent events, which must end well."""
    found = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
    assert found[-1]["type"] == "speech.audio.done"
    return b"".join(base64.b64decode(event["audio"]) for event in found[:-1])


@some
@given(options=delivery)
def test_every_way_of_delivery(fuzzed: Served, client: httpx.Client, options: dict[str, Any]) -> None:
    answer = client.post("/v1/audio/speech", json={"input": "Hello there. How are you?", "voice": "anna", **options})
    assert answer.status_code == 200, answer.text
    audio = events(answer) if answer.headers["content-type"] == "text/event-stream" else answer.content
    if answer.headers.get("x-audio-format") == "s16le":
        assert len(audio) % 2 == 0
    else:
        assert decoded(audio, CONTAINERS[options.get("response_format", "mp3")]).seconds > 0


@some
@given(text=texts, options=engine)
def test_engine_options(fuzzed: Served, client: httpx.Client, text: str, options: dict[str, Any]) -> None:
    answer = client.post("/v1/audio/speech", json={"input": text, "voice": "anna", "stream": False, **options})
    assert answer.status_code in (200, 400), answer.text
    if answer.status_code == 400:  # they contradict each other, or there is nothing to speak
        assert answer.json()["error"]["param"] in {*options, "input"}


@some
@given(config=audio_config, timestamps=st.sampled_from(["WORD", "CHARACTER"]))
def test_every_audio_config(fuzzed: Served, client: httpx.Client, config: dict[str, Any], timestamps: str) -> None:
    body = {"text": "Hello there.", "voiceId": "anna", "audioConfig": config, "timestampType": timestamps}
    whole = client.post("/tts/v1/voice", json=body)
    assert whole.status_code == 200, whole.text
    if config.get("audioEncoding") != AudioEncoding.PCM:
        audio = base64.b64decode(whole.json()["audioContent"])
        assert decoded(audio, CONTAINERS[config.get("audioEncoding", "MP3")]).seconds > 0
    streamed = client.post("/tts/v1/voice:stream", json=body)
    assert streamed.status_code == 200
    assert all(list(json.loads(line)) == ["result"] for line in streamed.text.splitlines())
