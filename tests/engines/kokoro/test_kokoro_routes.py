"""Kokoro with its real weights through every route of a foreign engine; a recogniser says whether it is speech."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import av
import httpx
import numpy as np
import pytest
import soundfile

from echo.engines.base import Engine
from echo.engines.remote.config import INSTALLED, read_engines
from echo.engines.remote.install import Installer
from echo.engines.table import EngineLoader, find_engines
from echo.settings import Settings, load_settings
from echo.types import Audio
from tests.contract.chatterbox.calls import TURNS
from tests.contract.chatterbox.calls import open_socket as chatterbox_socket
from tests.contract.elevenlabs.calls import open_socket as elevenlabs_socket
from tests.contract.inworld.calls import audio_of, chunks
from tests.contract.inworld.calls import open_socket as inworld_socket
from tests.contract.serving import Served, serving
from tests.engines.conftest import ENVIRONMENTS
from tests.engines.process import PATIENCE_S
from train.evaluation.distance import edits
from train.evaluation.heard import resampled
from train.evaluation.recogniser import Recogniser, words_of
from train.tiny.corpus import RATE as CORPUS_RATE
from worker.jobs import Jobs
from worker.main import sdk_config
from worker.settings import WorkerSettings
from worker.speaker import Speaker

TEXT = "My name is Peter."
VOICE, RATE = "af_heart", 24_000
#: Words of the text that the recogniser may mishear; of noise it hears none of them.
MISHEARD = 1

pytestmark = pytest.mark.filterwarnings("default::ResourceWarning")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    lack = Installer(ENVIRONMENTS, print).check("kokoro")
    if lack is not None and shutil.which("npm") is None:
        pytest.skip("npm is not installed, which Kokoro's voices come from")
    assert lack is None, f"{lack}; `make kokoro` does so for the tests"
    file = tmp_path_factory.mktemp("engines") / "engines.toml"
    installed = (ENVIRONMENTS / "kokoro" / INSTALLED).read_text(encoding="utf-8")
    # What is installed, but with one thread: on a busy machine two wait for each other.
    installed = re.sub(r'"(\.|model)"', lambda path: f'"{ENVIRONMENTS / "kokoro" / path[1]}"', installed)
    file.write_text(f"[kokoro]\nthreads = 1\n{installed}", encoding="utf-8")
    return load_settings(
        {
            "ECHO_ENGINES": "kokoro",
            "ECHO_ENGINES_FILE": str(file),
            "ECHO_CACHE_DIR": str(ENVIRONMENTS.parent),
            "ECHO_VOICES_DIR": str(tmp_path_factory.mktemp("voices")),
            "ECHO_WARMUP_TEXT": "Hello.",
        }
    )


class Shared:
    """The engine, for the server and the worker; none of the two closes it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def load(settings: Settings) -> Iterator[EngineLoader]:
    """Has the engine, loaded once as the settings say."""
    (loader,) = find_engines(settings.engine_names, read_engines(settings.engines_path, settings.engines_dir))
    engine = loader(settings, None)
    yield lambda settings, gate: cast(Engine, Shared(engine))
    engine.close()


@pytest.fixture(scope="module")
def kokoro(settings: Settings, load: EngineLoader) -> Iterator[Served]:
    with serving(settings, load_engine=load) as served:
        served.wait_ready()
        yield served


@pytest.fixture(scope="module")
def recogniser() -> Recogniser:
    return Recogniser()


def check(recogniser: Recogniser, samples: Audio, rate: int, text: str = TEXT) -> None:
    """Check that the text is what is heard."""
    assert 0.2 < len(samples) / rate / len(words_of(text)) < 1
    heard = recogniser.words(resampled(samples.astype(np.float32), rate, CORPUS_RATE))
    assert edits(words_of(text), heard) <= MISHEARD, heard


def pcm(data: bytes) -> Audio:
    return np.frombuffer(data, "<i2").astype(np.float32) / 32768


def post(server: Served, path: str = "/v1/audio/speech", **body: object) -> httpx.Response:
    answer = httpx.post(server.url + path, json=body, timeout=PATIENCE_S, verify=False)
    assert answer.status_code == 200, answer.text
    return answer


def test_openai_whole_and_as_events(kokoro: Served, recogniser: Recogniser) -> None:
    text = f"Good morning, Mary. {TEXT}"
    data = post(kokoro, input=text, model="kokoro", voice=VOICE, response_format="wav", stream=False).content
    samples, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    assert rate == RATE
    check(recogniser, samples, rate, text)
    answer = post(kokoro, input=text, voice=VOICE, response_format="pcm", stream_format="sse")
    events = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line.startswith("data: ")]
    streamed = pcm(b"".join(base64.b64decode(event["audio"]) for event in events[:-1]))
    np.testing.assert_allclose(streamed, samples, atol=1e-4)  # there is no sampling: whole = streamed


def test_what_only_the_engine_can_judge_is_refused_by_name(kokoro: Served) -> None:
    for field, value in (("voice", "af_heart*x"), ("lang", "xx")):
        answer = httpx.post(kokoro.url + "/v1/audio/speech", json={"input": "Hello.", field: value}, timeout=PATIENCE_S)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, field), answer.text


def test_inworld_socket(kokoro: Served, recogniser: Recogniser) -> None:
    with inworld_socket(kokoro) as socket:
        socket.create(voiceId=VOICE, modelId="kokoro", audioConfig={"audioEncoding": "PCM"})
        socket.send({"send_text": {"text": TEXT, "flush_context": {}}}, "c")
        check(recogniser, pcm(audio_of(chunks(socket.until("flushCompleted")))), RATE)


def test_chatterbox_socket(kokoro: Served, recogniser: Recogniser) -> None:
    with chatterbox_socket(kokoro, TURNS) as socket:
        socket.begin(VOICE)
        for word in TEXT.split():
            socket.send({"type": "text", "content": word + " "})
        socket.send({"type": "end"})
        frames = [base64.b64decode(message["audio"]) for message in socket.until("complete") if message.get("audio")]
    assert {len(frame) for frame in frames} == {160}
    with av.open(io.BytesIO(b"".join(frames)), format="mulaw", options={"sample_rate": "8000"}) as file:
        samples = np.concatenate([frame.to_ndarray().reshape(-1) for frame in file.decode(audio=0)])
    check(recogniser, samples.astype(np.float32) / 32768, 8000)


def test_elevenlabs_socket(kokoro: Served, recogniser: Recogniser) -> None:
    with elevenlabs_socket(
        kokoro, "/stream-input", voice="af_heart+am_adam", model_id="kokoro", output_format="pcm_24000"
    ) as socket:
        for text in (" ", TEXT + " ", ""):
            socket.send(text=text)
        messages = socket.until_final()
    check(recogniser, pcm(b"".join(base64.b64decode(m["audio"]) for m in messages if m.get("audio"))), RATE)


async def test_the_worker(settings: Settings, load: EngineLoader, recogniser: Recogniser, tmp_path: Path) -> None:
    worker = WorkerSettings(output_dir=tmp_path, inline_audio=True)
    speaker = Speaker(settings, load)
    handler = sdk_config(speaker, Jobs(settings, worker, speaker), worker)["handler"]
    try:
        answer = await handler({"id": "1", "input": {"text": TEXT}})
    finally:
        await asyncio.to_thread(speaker.close)
    assert answer["status"] == "completed", answer
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(answer["audio_base64"])), dtype="float32")
    check(recogniser, samples, rate)
