"""Kokoro with its real weights through every route of a foreign engine; a recogniser says whether it is speech."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path

import av
import httpx
import numpy as np
import pytest
import soundfile

from echo.engines.remote.install import Installer
from echo.settings import load_settings
from echo.types import Audio
from tests.contract.chatterbox.calls import TURNS
from tests.contract.chatterbox.calls import open_socket as chatterbox_socket
from tests.contract.elevenlabs.calls import open_socket as elevenlabs_socket
from tests.contract.inworld.calls import audio_of, chunks
from tests.contract.inworld.calls import open_socket as inworld_socket
from tests.contract.serving import LOADING_S, Served, serving
from tests.engines.conftest import ENVIRONMENTS
from train.evaluation.distance import edits
from train.evaluation.heard import resampled
from train.evaluation.recogniser import Recogniser, words_of
from train.tiny.corpus import RATE as CORPUS_RATE
from worker.jobs import Jobs
from worker.main import sdk_config
from worker.settings import WorkerSettings
from worker.speaker import Speaker

TEXT = "Good morning, my name is Peter. It is very nice to meet you."
VOICE, RATE = "af_heart", 24_000
#: Words of the text that the recogniser may mishear; of noise it hears none of them.
MISHEARD = 3

pytestmark = pytest.mark.filterwarnings("default::ResourceWarning")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    lack = Installer(ENVIRONMENTS, print).check("kokoro")
    assert lack is None, f"{lack}; `make test-engines` does so"
    return {
        "ECHO_ENGINES": "kokoro",
        "ECHO_CACHE_DIR": str(ENVIRONMENTS.parent),
        "ECHO_VOICES_DIR": str(tmp_path_factory.mktemp("voices")),
    }


@pytest.fixture(scope="module")
def kokoro(settings: dict[str, str]) -> Iterator[Served]:
    with serving(load_settings(settings)) as served:
        yield served


@pytest.fixture(scope="module")
def recogniser() -> Recogniser:
    return Recogniser()


def check(recogniser: Recogniser, samples: Audio, rate: int) -> None:
    """Check that the text is what is heard."""
    assert 2.5 < len(samples) / rate < 7
    heard = recogniser.words(resampled(samples.astype(np.float32), rate, CORPUS_RATE))
    assert edits(words_of(TEXT), heard) <= MISHEARD, heard


def pcm(data: bytes) -> Audio:
    return np.frombuffer(data, "<i2").astype(np.float32) / 32768


def post(server: Served, path: str = "/v1/audio/speech", **body: object) -> httpx.Response:
    answer = httpx.post(server.url + path, json=body, timeout=LOADING_S, verify=False)
    assert answer.status_code == 200, answer.text
    return answer


def test_openai_whole_and_streamed(kokoro: Served, recogniser: Recogniser) -> None:
    data = post(kokoro, input=TEXT, model="kokoro", voice=VOICE, response_format="wav", stream=False).content
    samples, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    assert rate == RATE
    check(recogniser, samples, rate)
    streamed = pcm(post(kokoro, input=TEXT, model="kokoro", voice=VOICE, response_format="pcm", stream=True).content)
    np.testing.assert_allclose(streamed, samples, atol=1e-4)  # there is no sampling: whole = streamed


def test_openai_events(kokoro: Served, recogniser: Recogniser) -> None:
    answer = post(kokoro, input=TEXT, voice="am_adam", response_format="pcm", stream_format="sse")
    events = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line.startswith("data: ")]
    check(recogniser, pcm(b"".join(base64.b64decode(event["audio"]) for event in events[:-1])), RATE)


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


async def test_the_worker(settings: dict[str, str], recogniser: Recogniser, tmp_path: Path) -> None:
    own = load_settings(settings)
    worker = WorkerSettings(output_dir=tmp_path, inline_audio=True)
    speaker = Speaker(own)
    handler = sdk_config(speaker, Jobs(own, worker, speaker), worker)["handler"]
    try:
        answer = await handler({"id": "1", "input": {"text": TEXT}})
    finally:
        await asyncio.to_thread(speaker.close)
    assert answer["status"] == "completed", answer
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(answer["audio_base64"])), dtype="float32")
    check(recogniser, samples, rate)
