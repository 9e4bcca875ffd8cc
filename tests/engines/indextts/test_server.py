"""IndexTTS-2 over HTTP, and from the worker with an emotion."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile

from echo.settings import load_settings
from tests.contract.serving import Served, serving
from tests.engines.indextts.conftest import RATE, SEGMENT, TEXT, Checkpoint, clip
from tests.engines.process import PATIENCE_S
from worker.jobs import Jobs
from worker.main import sdk_config
from worker.settings import WorkerSettings
from worker.speaker import Speaker

pytestmark = pytest.mark.filterwarnings("default::ResourceWarning")


@pytest.fixture(scope="module")
def settings(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("server")
    for number, name in enumerate(("anna", "sad"), 1):
        (folder / "voices").mkdir(exist_ok=True)
        soundfile.write(folder / "voices" / f"{name}.wav", clip(number), RATE)
    lines = ["[indextts]", 'adapter = "indextts"']
    lines += [f"{key} = {json.dumps(value)}" for key, value in _table(checkpoint).items()]
    lines += ["[indextts.options]"]
    lines += [f"{key} = {json.dumps(value)}" for key, value in checkpoint.options(num_beams=1).items()]
    (folder / "engines.toml").write_text("\n".join(lines))
    return {
        "ECHO_ENGINES": "indextts",
        "ECHO_ENGINES_FILE": str(folder / "engines.toml"),
        "ECHO_VOICES_DIR": str(folder / "voices"),
        "ECHO_DEFAULT_VOICE": "none",
    }


def _table(checkpoint: Checkpoint) -> dict[str, Any]:
    return {"python": str(checkpoint.python), "model": checkpoint.model}


def test_it_is_listed_and_speaks(settings: dict[str, str]) -> None:
    with serving(load_settings(settings)) as served:
        (model, *_) = get(served, "/v1/models")["data"]
        assert (model["id"], model["license"]) == ("indextts-2", "bilibili Model Use License Agreement")
        body = {"model": "indextts-2", "input": TEXT, "response_format": "wav", "seed": 3, "stream": False}
        whole = post(served, **body, voice="anna")
        assert whole.status_code == 200, whole.text
        samples, rate = soundfile.read(io.BytesIO(whole.content), dtype="float32")
        assert rate == RATE
        assert len(samples) >= SEGMENT
        other = post(served, **body, voice="anna", top_k=2)
        assert other.status_code == 200
        assert other.content != whole.content
        vector, clip_of_sad = [0, 0, 0.5, 0, 0, 0.2, 0, 0], Path(settings["ECHO_VOICES_DIR"], "sad.wav").read_bytes()
        moods = (
            {"emo_vector": vector},
            {"emo_vector": vector, "emo_alpha": 0.4},
            {"emo_audio_prompt": "sad"},
            {"use_emo_text": True, "emo_text": "Hooray!"},
        )
        heard = [post(served, **body, voice="anna", **mood).content for mood in moods]
        assert len({whole.content, *heard}) == 1 + len(heard)
        inline = base64.b64encode(clip_of_sad).decode()
        assert post(served, **body, voice="anna", emo_audio_prompt=inline).content == heard[2]
        assert post(served, **body, voice="anna", top_k=101).json()["error"]["param"] == "top_k"
        refused = post(served, **body)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "voice")


async def test_a_job_of_the_worker_has_its_emotion(settings: dict[str, str], tmp_path: Path) -> None:
    own = load_settings(settings)
    worker = WorkerSettings(output_dir=tmp_path, inline_audio=True)
    speaker = Speaker(own)
    handler = sdk_config(speaker, Jobs(own, worker, speaker), worker)["handler"]
    job = {"text": TEXT, "speaker_voice": "anna.wav", "seed": 5}
    vector = [0.0, 0.0, 0.5, 0.0, 0.0, 0.2, 0.0, 0.0]
    try:
        answers = [
            await handler({"id": "1", "input": {**job, **emotion}})
            for emotion in (
                {},
                {"emo_vector": vector},
                {"emo_vector": vector, "emo_alpha": 0.4},
                {"emo_vector": vector, "use_random": True},
                {"emo_audio_prompt": "sad.wav"},
                {"use_emo_text": True, "emo_text": "Hooray!"},
            )
        ]
        both = await handler({"id": "2", "input": {**job, "emo_vector": vector, "use_emo_text": True}})
        nobody = await handler({"id": "3", "input": {"text": TEXT, "emo_vector": vector}})
    finally:
        await asyncio.to_thread(speaker.close)
    assert [answer["status"] for answer in answers] == ["completed"] * len(answers), answers
    heard = [base64.b64decode(answer["audio_base64"]) for answer in answers]
    assert len(set(heard)) == len(heard)
    samples, _ = soundfile.read(io.BytesIO(heard[0]), dtype="float32")
    assert np.abs(samples).max() > 0.01
    assert both["error"] == "use_emo_text and emo_vector exclude each other."
    assert nobody["error"].startswith("speaker_voice must be given")


def get(served: Served, path: str) -> Any:
    return httpx.get(served.url + path, timeout=PATIENCE_S, verify=False).json()


def post(served: Served, **body: object) -> httpx.Response:
    return httpx.post(served.url + "/v1/audio/speech", json=body, timeout=PATIENCE_S, verify=False)
