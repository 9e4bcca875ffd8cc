"""A foreign engine at 24 kHz through every route: from an installed package, and in a process of its own."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile

from echo.engines.remote.engine import RemoteEngine
from echo.errors import ConfigError
from echo.runtime import Runtime
from echo.settings import Settings, load_settings
from echo.stream import FrameStream
from echo.types import Audio, AudioFrame, BlockPlan, BlockSpec, Utterance
from tests.contract.example_engine.sine_engine import HERTZ, RATE, S_PER_CHAR, SineEngine
from tests.contract.inworld.calls import audio_of, chunks, open_socket, speak, stream
from tests.contract.serving import PATIENCE_S, Served, serving, wait_until

ROOT = Path(__file__).parents[3]
TEXT = "The quick brown fox jumps over the lazy dog, and then it rests."
SECONDS = len(f"[S1] {TEXT}") * S_PER_CHAR


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Install the engine's metadata, as pip would."""
    folder = tmp_path_factory.mktemp("site-packages")
    metadata = folder / "sine-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: sine\nVersion: 1.0\n")
    value = "tests.contract.example_engine.sine_engine:load"
    (metadata / "entry_points.txt").write_text(f"[echo_tts.engines]\nsine = {value}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield


@pytest.fixture(scope="module")
def engines_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engines.toml whose engine is the same in a child process."""
    file = tmp_path_factory.mktemp("engines") / "engines.toml"
    file.write_text(f'[sine-child]\nadapter = "{Path(__file__).with_name("sine_adapter.py")}"\n')
    return file


@pytest.fixture(scope="module", params=["sine", "sine-child"])
def sine(request: pytest.FixtureRequest, installed: None, engines_file: Path, voices_dir: Path) -> Iterator[Served]:
    environment = {"ECHO_ENGINE": request.param, "ECHO_ENGINES_FILE": str(engines_file)}
    with serving(load_settings({**environment, "ECHO_VOICES_DIR": str(voices_dir)})) as served:
        yield served


@pytest.fixture
def child(engines_file: Path, voices_dir: Path) -> Iterator[Served]:
    """A server of its own with the engine in a child process."""
    settings = Settings(engine="sine-child", engines_file=engines_file, voices_dir=(str(voices_dir),))
    with serving(settings) as served:
        yield served


def check_tone(samples: Audio, rate: int, seconds: float = SECONDS) -> None:
    """Check length and pitch: a wrong sample rate anywhere changes both."""
    assert len(samples) / rate == pytest.approx(seconds, rel=0.1)
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    assert np.argmax(spectrum) * rate / len(samples) == pytest.approx(HERTZ, abs=2)


def check_file(data: bytes, rate: int = RATE) -> None:
    samples, found = soundfile.read(io.BytesIO(data), dtype="float32")
    assert found == rate
    check_tone(samples, found)


def check_pcm(data: bytes, rate: int = RATE) -> None:
    check_tone(np.frombuffer(data, "<i2").astype(np.float32), rate)


def post(server: Served, path: str = "/v1/audio/speech", **body: object) -> httpx.Response:
    answer = httpx.post(server.url + path, json=body, timeout=PATIENCE_S, verify=False)
    assert answer.status_code == 200, answer.text
    return answer


def test_the_server_names_the_engine(sine: Served) -> None:
    models = httpx.get(sine.url + "/v1/models", verify=False).json()["data"]
    assert "sine" in [model["id"] for model in models]


@pytest.mark.parametrize(("form", "rate"), [("wav", RATE), ("flac", RATE), ("mp3", RATE), ("opus", 48_000)])
def test_openai_whole_files_have_the_engines_rate(sine: Served, form: str, rate: int) -> None:
    answer = post(sine, input=TEXT, voice="anna", response_format=form, stream=False)
    assert answer.headers["x-audio-sample-rate"] == str(RATE if form != "opus" else rate)
    check_file(answer.content, rate)


@pytest.mark.parametrize("rate", [None, 8000, 44_100])
def test_an_openai_stream_has_the_engines_rate_or_the_one_asked_for(sine: Served, rate: int | None) -> None:
    options = {} if rate is None else {"sample_rate": rate}
    answer = post(sine, input=TEXT, voice="anna", response_format="pcm", stream=True, **options)
    assert answer.headers["x-audio-sample-rate"] == str(rate or RATE)
    assert answer.headers["transfer-encoding"] == "chunked"
    check_pcm(answer.content, rate or RATE)


def test_openai_server_sent_events(sine: Served) -> None:
    answer = post(sine, input=TEXT, voice="anna", response_format="pcm", stream_format="sse")
    events = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line.startswith("data: ")]
    assert events[-1]["type"] == "speech.audio.done"
    check_pcm(b"".join(base64.b64decode(event["audio"]) for event in events[:-1]))


@pytest.mark.parametrize("rate", [None, 16_000])
def test_inworld_over_http(sine: Served, rate: int | None) -> None:
    config = {"audioEncoding": "WAV", **({"sampleRateHertz": rate} if rate else {})}
    check_file(base64.b64decode(speak(sine, text=TEXT, audioConfig=config)["audioContent"]), rate or RATE)


def test_inworld_stream(sine: Served) -> None:
    check_pcm(audio_of(stream(sine, text=TEXT, audioConfig={"audioEncoding": "PCM"})))


def test_inworld_socket(sine: Served) -> None:
    with open_socket(sine) as socket:
        socket.create(audioConfig={"audioEncoding": "PCM"})
        socket.send({"send_text": {"text": TEXT, "flush_context": {}}}, "c")
        check_pcm(audio_of(chunks(socket.until("flushCompleted"))))


def test_xtts_whole_and_stream(sine: Served) -> None:
    body = {"text": TEXT, "speaker_wav": "anna", "language": "en"}
    check_file(post(sine, "/tts_to_audio/", **body).content)
    data = post(sine, "/tts_stream", **body).content
    assert int.from_bytes(data[24:28], "little") == RATE
    check_pcm(data[44:])


def test_an_xtts_ping_is_answered_at_the_engines_rate(sine: Served) -> None:
    samples, rate = soundfile.read(io.BytesIO(post(sine, "/tts_to_audio/", text="ping", speaker_wav="x").content))
    assert (len(samples), rate) == (RATE // 10, RATE)


def test_the_workload_is_in_the_metrics_and_zero_when_all_are_served(sine: Served) -> None:
    sine.wait_idle()

    def idle() -> bool:
        metrics = httpx.get(sine.url + "/metrics", verify=False).text
        return re.search(r"^echo_active_utterances\{.*\} 0\.0$", metrics, re.MULTILINE) is not None

    wait_until(idle)


def test_a_cancelled_utterance_ends_and_the_workload_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    cancelled = threading.Event()

    class Held(FrameStream):
        """The engine goes on when the first frame has been taken and no more are wanted."""

        def put(self, frame: AudioFrame) -> None:
            super().put(frame)
            assert cancelled.wait(PATIENCE_S)

    monkeypatch.setattr("tests.contract.example_engine.sine_engine.FrameStream", Held)
    engine = SineEngine()
    plan = BlockPlan(blocks=tuple(BlockSpec(size=1, steps=1) for _ in range(100)))
    frames = engine.speak(Utterance(text="a" * 100, plan=plan, seed=0))
    assert not next(frames).is_last
    assert engine.workload().active == 1
    frames.cancel()
    cancelled.set()
    wait_until(lambda: engine.workload().active == 0)
    assert frames.stats.blocks == 1
    engine.close()


def test_a_killed_child_costs_its_own_stream_and_readiness_until_it_is_back(child: Served) -> None:
    engine = child.runtime.service.engine
    assert isinstance(engine, RemoteEngine)
    pid = engine.pid
    assert pid is not None
    body = {"input": "a " * 1900, "voice": "anna", "response_format": "pcm", "stream": True}
    # So little is on its way that the process cannot have made everything before it is stopped.
    slow = httpx.HTTPTransport(socket_options=[(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**14)])
    with (
        httpx.Client(transport=slow, timeout=PATIENCE_S) as client,
        client.stream("POST", child.url + "/v1/audio/speech", json=body) as answer,
    ):
        pieces = answer.iter_raw()
        assert next(pieces)
        os.kill(pid, signal.SIGSTOP)  # it makes no more, and dies in the middle
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(httpx.RemoteProtocolError):
            for _ in pieces:
                pass
    wait_until(lambda: not engine.available() or engine.pid not in (None, pid))
    assert httpx.get(child.url + "/health", verify=False).status_code == 200
    check_pcm(post(child, input=TEXT, voice="anna", response_format="pcm").content)  # it waits for the next process
    assert engine.pid != pid
    ready = httpx.get(child.url + "/ready", verify=False)
    assert (ready.status_code, ready.json()) == (200, {"status": "ready"})


def test_while_the_child_is_down_the_server_is_up_and_not_ready(child: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = child.runtime.service.engine
    monkeypatch.setattr(engine, "available", lambda: False)
    ready, health = (httpx.get(child.url + path, verify=False) for path in ("/ready", "/health"))
    assert (ready.status_code, ready.json()) == (503, {"status": "restarting"})
    assert (health.status_code, health.json()["status"]) == (200, "restarting")


def test_an_unknown_engine_is_one_line_that_names_those_there_are(installed: None) -> None:
    with pytest.raises(ConfigError) as caught:
        Runtime(Settings(engine="espeak"))
    assert caught.value.message == "ECHO_ENGINE=espeak: no such engine; there are echo, sine."


def test_engines_of_the_file_are_named_too(installed: None, engines_file: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        Runtime(Settings(engine="espeak", engines_file=engines_file))
    assert caught.value.message == "ECHO_ENGINE=espeak: no such engine; there are echo, sine, sine-child."


def test_an_engine_of_the_file_must_not_have_the_name_of_another(tmp_path: Path, engines_file: Path) -> None:
    file = tmp_path / "engines.toml"
    file.write_text(engines_file.read_text().replace("sine-child", "echo"))
    with pytest.raises(ConfigError, match="another engine has this name"):
        Runtime(Settings(engines_file=file))


def test_the_default_engine_is_echo_and_is_imported_only_when_it_is_loaded() -> None:
    code = """
import sys
from echo.errors import EchoError
from echo.engines.table import find_engines
from echo.settings import Settings
(load,) = find_engines(Settings().engine_names)
assert "torch" not in sys.modules
try:
    load(Settings(model_repo="./not-there", device="cpu"), None)
except EchoError:
    assert "echo.engines.load" in sys.modules
    print("imported")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "imported\n"
