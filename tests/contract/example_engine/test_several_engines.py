"""Two engines in one server: a request's model picks one, and what each can do is listed and checked."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
from websockets.sync.client import connect

from echo.errors import ConfigError, NotReady
from echo.runtime import Runtime
from echo.settings import Settings, load_settings
from tests.contract.example_engine.test_sine_engine import installed
from tests.contract.serving import PATIENCE_S, Served, serving
from tests.unit.engines.remote.processes import ADAPTER, WORD

__all__ = ["installed"]

#: The second engine, by the name that it gives itself, and its rate.
FAKE, RATE = "fake-tts", 24_000


@pytest.fixture(scope="module")
def presets_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The server's own presets and two for the second engine."""
    file = tmp_path_factory.mktemp("presets") / "presets.toml"
    own = (Path(__file__).parents[3] / "presets.toml").read_text(encoding="utf-8")
    file.write_text(own + "\n[fake-tts.default]\npitch = 1.2\n\n[fake-tts.deep]\npitch = 0.5\n", encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def engines_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("engines") / "engines.toml"
    file.write_text(f'[other]\nadapter = "{ADAPTER}"\n')
    return file


@pytest.fixture(scope="module")
def settings(engines_file: Path, presets_file: Path, voices_dir: Path) -> dict[str, str]:
    return {
        "ECHO_ENGINES": "sine, other",
        "ECHO_ENGINES_FILE": str(engines_file),
        "ECHO_PRESETS_FILE": str(presets_file),
        "ECHO_VOICES_DIR": str(voices_dir),
    }


@pytest.fixture(scope="module")
def server(installed: None, settings: dict[str, str]) -> Iterator[Served]:
    with serving(load_settings(settings)) as served:
        yield served


def get(server: Served, path: str) -> Any:
    answer = httpx.get(server.url + path, verify=False)
    assert answer.status_code == 200, answer.text
    return answer.json()


def post(server: Served, path: str = "/v1/audio/speech", **body: object) -> httpx.Response:
    return httpx.post(server.url + path, json=body, timeout=PATIENCE_S, verify=False)


def level(data: bytes) -> float:
    """The level of the first word of PCM at the second engine's rate."""
    return float(np.frombuffer(data, "<i2")[WORD // 2]) / 32768


def spoken(server: Served, text: str, **body: object) -> float:
    answer = post(server, input=text, model=FAKE, response_format="pcm", **body)
    assert answer.status_code == 200, answer.text
    return level(answer.content)


def test_each_engine_is_a_model_with_what_it_can_do(server: Served) -> None:
    models = {model["id"]: model for model in get(server, "/v1/models")["data"]}
    assert list(models)[:2] == ["sine", FAKE]
    assert models[FAKE]["capabilities"] == {
        "clone": True,
        "engine_options": False,
        "stream": "token",
        "emotions": ["emo_alpha", "emo_audio_prompt", "emo_vector"],
        "languages": ["en"],
        "options": {
            "pitch": {"type": "number", "minimum": 0, "maximum": 2, "default": 1},
            "passes": {"type": "integer", "minimum": 1, "default": None},
            "calm": {"type": "boolean", "default": None},
            "style": {"type": "string", "default": None},
        },
    }
    assert (models[FAKE]["license"], models[FAKE]["sample_rate"]) == ("MIT", RATE)
    assert models["tts-1"]["capabilities"] == models["sine"]["capabilities"]
    assert get(server, f"/v1/models/{FAKE}") == models[FAKE]


def test_the_voices_say_which_models_speak_with_them(server: Served) -> None:
    models = {voice["id"]: voice["models"] for voice in get(server, "/v1/voices")["data"]}
    assert models == {
        "anna": ["sine", FAKE],
        "bob": ["sine", FAKE],
        "Old Man": ["sine", FAKE],
        "low": [FAKE],
        "high": [FAKE],
    }
    assert [voice["id"] for voice in get(server, f"/v1/audio/voices/{FAKE}")["voices"]][-2:] == ["low", "high"]
    assert "low" not in str(get(server, "/v1/audio/voices/sine"))
    assert "low" in get(server, "/v1/audio/voices?legacy=true")["voices"]


def test_the_health_card_tells_of_each_engine(server: Served) -> None:
    assert get(server, "/health")["engines"] == {"sine": "healthy", FAKE: "healthy"}


@pytest.mark.parametrize("model", ["sine", "tts-1", "whatever", None])
def test_the_first_engine_speaks_for_every_other_model(server: Served, model: str | None) -> None:
    answer = post(server, input="one two", model=model, response_format="wav")
    samples, _ = soundfile.read(io.BytesIO(answer.content))
    assert len(samples) != 2 * WORD
    assert np.abs(samples).max() > 0.15  # a sine, as loud as anna


def test_the_model_picks_the_engine(server: Served) -> None:
    answer = post(server, input="one two", model=FAKE, response_format="wav")
    assert len(soundfile.read(io.BytesIO(answer.content))[0]) == 2 * WORD


def test_options_of_the_engine_reach_it_from_the_body_or_the_preset(server: Served) -> None:
    assert spoken(server, "pitch") == pytest.approx(0.12, abs=1e-3)  # [fake-tts.default]
    assert spoken(server, "pitch", preset="deep") == pytest.approx(0.05, abs=1e-3)
    assert spoken(server, "pitch", preset="deep", pitch=1.5) == pytest.approx(0.15, abs=1e-3)
    assert spoken(server, "pitch", extra_body={"pitch": 0.7}) == pytest.approx(0.07, abs=1e-3)


def test_an_emotion_reaches_the_engine_from_every_body(server: Served, voices_dir: Path) -> None:
    """A vector, or a clip: a voice by its name, or base64."""
    vector = [0.8, *[0] * 7]
    nothing = {"use_random": False, "emo_text": None, "use_emo_text": False}
    assert spoken(server, "emotion", emo_vector=vector, **nothing) == pytest.approx(0.8, abs=1e-3)
    clip = base64.b64encode((voices_dir / "anna.wav").read_bytes()).decode()
    for given in ("anna", clip):
        level_of_anna = spoken(server, "emotion", emo_audio_prompt=given, emo_alpha=0.5)
        assert level_of_anna == pytest.approx(0.1, abs=5e-3)
    elevenlabs = post(
        server, "/v1/text-to-speech/low?output_format=pcm_24000", text="emotion", model_id=FAKE, emo_vector=vector
    )
    assert level(elevenlabs.content) == pytest.approx(0.8, abs=1e-3)
    config = {"audioEncoding": "PCM"}
    inworld = post(
        server, "/tts/v1/voice", text="emotion", voiceId="low", modelId=FAKE, audioConfig=config, emo_vector=vector
    )
    assert level(base64.b64decode(inworld.json()["audioContent"])) == pytest.approx(0.8, abs=1e-3)
    with connect(f"ws://127.0.0.1:{server.port}/v1/audio/speech/stream") as socket:
        start = {"type": "session.config", "model": FAKE, "response_format": "pcm", "emo_vector": vector}
        for message in (start, {"type": "input.text", "text": "emotion."}, {"type": "input.done"}):
            socket.send(json.dumps(message))
        audio = next(frame for frame in socket if isinstance(frame, bytes))
    assert level(audio) == pytest.approx(0.8, abs=1e-3)


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ({"model": FAKE, "pitch": 2.5}, "pitch", "must be a number from 0 to 2"),
        ({"model": FAKE, "pitch": "high"}, "pitch", "must be a number from 0 to 2"),
        ({"model": FAKE, "pitch": True}, "pitch", "must be a number"),
        ({"model": FAKE, "passes": 0}, "passes", "must be an integer of at least 1"),
        ({"model": FAKE, "passes": 1.5}, "passes", "must be an integer"),
        ({"model": FAKE, "calm": 1}, "calm", "must be a boolean"),
        ({"model": FAKE, "style": 3}, "style", "must be a string"),
        ({"model": FAKE, "num_steps": 8}, "num_steps", "has no such option; it has pitch, passes, calm, style"),
        ({"model": "sine", "pitch": 1.0}, "pitch", "the engine sine has no such option"),
        ({"model": FAKE, "use_emo_text": True}, "use_emo_text", "fake-tts takes no such emotion"),
        ({"model": "sine", "emo_vector": [1, *[0] * 7]}, "emo_vector", "sine takes no such emotion"),
        ({"model": FAKE, "emo_vector": [1, 0]}, "emo_vector", "at least 8 items"),
        ({"model": FAKE, "emo_vector": [2, *[0] * 7]}, "emo_vector", "less than or equal to 1"),
        (
            {"model": FAKE, "emo_vector": [1, *[0] * 7], "emo_audio_prompt": "anna"},
            "emo_vector",
            "emo_vector and emo_audio_prompt exclude each other",
        ),
        ({"model": FAKE, "emo_alpha": "full"}, "emo_alpha", "valid number"),
        ({"model": FAKE, "emo_audio_prompt": "nobody"}, "emo_audio_prompt", "emo_audio_prompt: Unknown voice"),
        ({"model": FAKE, "preset": "low"}, "preset", "known ones are default, deep"),
        ({"model": FAKE, "voice": "nobody"}, "voice", "Unknown voice"),
        ({"model": "sine", "voice": "low"}, "voice", "Unknown voice"),
    ],
)
def test_what_an_engine_does_not_take_is_refused_by_name(
    server: Served, body: dict[str, object], field: str, message: str
) -> None:
    answer = post(server, input="one", **body)
    assert answer.status_code in (400, 404), answer.text
    error = answer.json()["error"]
    assert error["param"] == field
    assert message in error["message"]


def test_unknown_fields_are_ignored_and_null_is_absent(server: Served) -> None:
    assert spoken(server, "pitch", pitch=None, of_another_server=1, chunking_enabled=True) == pytest.approx(
        0.12, abs=1e-3
    )


def test_voices_of_the_engine_and_of_the_library(server: Served) -> None:
    assert spoken(server, "name", voice="low") == pytest.approx(0.2, abs=1e-3)
    assert spoken(server, "name", voice="low*0.5+high*0.5") == pytest.approx(0.4, abs=1e-3)
    assert spoken(server, "voice", voice="anna") == pytest.approx(0.2, abs=1e-2)
    for _ in range(2):  # each engine has its own state of a voice
        assert post(server, input="one", model="sine", voice="anna").status_code == 200
        assert spoken(server, "voice", voice="anna") == pytest.approx(0.2, abs=1e-2)


def test_inworlds_model_picks_the_engine(server: Served) -> None:
    config = {"audioEncoding": "PCM"}
    answer = post(server, "/tts/v1/voice", text="pitch", voiceId="low", modelId=FAKE, audioConfig=config, pitch=0.9)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["modelId"] == FAKE
    assert level(base64.b64decode(answer.json()["audioContent"])) == pytest.approx(0.09, abs=1e-3)


def test_elevenlabs_model_picks_the_engine_over_http_and_on_a_socket(server: Served) -> None:
    path = "/v1/text-to-speech/low?output_format=pcm_24000"
    answer = post(server, path, text="pitch", model_id=FAKE, pitch=0.9)
    assert answer.status_code == 200, answer.text
    assert level(answer.content) == pytest.approx(0.09, abs=1e-3)
    url = f"ws://127.0.0.1:{server.port}/v1/text-to-speech/high/stream-input"
    with connect(f"{url}?model_id={FAKE}&output_format=pcm_24000") as socket:
        for text in (" ", "name ", ""):
            socket.send(json.dumps({"text": text}))
        messages = [json.loads(frame) for frame in socket]
    audio = b"".join(base64.b64decode(message["audio"]) for message in messages if message.get("audio"))
    assert level(audio) == pytest.approx(0.3, abs=1e-3)


def test_the_omni_routes_pick_the_engine_by_model(server: Served) -> None:
    items = [{"input": "name", "voice": "low", "model": FAKE}, {"input": "one", "voice": "anna"}]
    results = post(server, "/v1/audio/speech/batch", items=items, response_format="wav").json()["results"]
    files = [soundfile.read(io.BytesIO(base64.b64decode(result["audio_data"])))[0] for result in results]
    assert len(files[0]) == WORD
    assert len(files[1]) != WORD
    with connect(f"ws://127.0.0.1:{server.port}/v1/audio/speech/stream") as socket:
        start = {"type": "session.config", "model": FAKE, "voice": "high", "response_format": "wav"}
        for message in (start, {"type": "input.text", "text": "name."}, {"type": "input.done"}):
            socket.send(json.dumps(message))
        audio = b""
        for frame in socket:
            if isinstance(frame, bytes):
                audio += frame
            elif json.loads(frame)["type"] == "session.done":
                break
    assert struct.unpack("<I", audio[24:28]) == (RATE,)
    assert soundfile.read(io.BytesIO(audio))[0][WORD // 2] == pytest.approx(0.3, abs=1e-3)


def test_an_engine_without_memory_is_told_of_as_the_servers_own_is(server: Served) -> None:
    answer = post(server, input="memory", model=FAKE, voice="low", response_format="pcm")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "out_of_memory")
    assert answer.headers["retry-after"]
    assert "x-should-retry" not in answer.headers
    lines = httpx.get(f"{server.url}/metrics", verify=False).text.splitlines()
    assert f'echo_failures_total{{model_name="{FAKE}",reason="out_of_memory"}} 1.0' in lines
    assert f'echo_out_of_memory_total{{model_name="{FAKE}"}} 1.0' in lines
    assert spoken(server, "name", voice="low") > 0


def test_an_engine_named_twice_or_unknown_is_one_line(installed: None, settings: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        Runtime(load_settings({**settings, "ECHO_ENGINES": "sine,other,sine"}))
    assert caught.value.message == "ECHO_ENGINES: sine is named twice."
    with pytest.raises(ConfigError) as caught:
        Runtime(load_settings({**settings, "ECHO_ENGINES": "sine,espeak"}))
    assert caught.value.message == "ECHO_ENGINES=espeak: no such engine; there are echo, other, sine."


def test_a_preset_with_an_option_that_the_engine_lacks_stops_the_start(
    installed: None, settings: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "presets.toml"
    own = Path(settings["ECHO_PRESETS_FILE"]).read_text(encoding="utf-8")
    file.write_text(own + "\n[fake-tts.wrong]\nvolume = 11\n", encoding="utf-8")
    runtime = Runtime(load_settings({**settings, "ECHO_PRESETS_FILE": str(file)}))

    async def start() -> None:
        async with runtime:
            await runtime.ready()

    with pytest.raises(NotReady, match=r"\[fake-tts\.wrong\]: volume: the engine fake-tts has no such option"):
        asyncio.run(start())


def test_one_engine_is_the_default() -> None:
    assert Settings().engine_names == ("echo",)
    assert Settings(engines=("a", "b"), engine="c").engine_names == ("a", "b")
