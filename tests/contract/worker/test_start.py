"""How the worker starts, and how it does not; and the SDK's local server with the generator handler."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from runpod.serverless.modules.rp_fastapi import WorkerAPI

from echo.engines.fake import FakeEngine
from echo.settings import Settings
from tests.contract.worker.ceph import Ceph
from tests.contract.worker.process import run_once
from tests.unit.worker.workers import PATIENCE_S, until
from worker.jobs import Jobs
from worker.main import sdk_config
from worker.settings import WorkerSettings
from worker.speaker import Speaker

HEALTH = json.dumps({"input": {"action": "health_check"}})
HOSTED = {"RUNPOD_WEBHOOK_GET_JOB": "http://127.0.0.1:9/job-take/$ID?x=1"}


def test_on_the_platform_missing_settings_end_in_one_line(tmp_path: Path) -> None:
    done = run_once(tmp_path, **HOSTED)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "S3_ACCESS_KEY_ID, S3_SECRET_ACCESS_KEY, S3_BUCKET_NAME: not set; finished files cannot be uploaded. Set them, "
        "or set ECHO_WORKER_INLINE_AUDIO=1 for answers that hold the audio itself.\n"
    )


def test_a_storage_that_can_never_be_reached_ends_in_one_line(tmp_path: Path) -> None:
    keys = {"S3_ACCESS_KEY_ID": "key", "S3_SECRET_ACCESS_KEY": "secret", "S3_BUCKET_NAME": "speech"}
    done = run_once(tmp_path, **HOSTED, **keys, S3_ENDPOINT_URL="https://bad host")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("S3_ENDPOINT_URL='https://bad host': must be ")
    assert done.stderr.count("\n") == 1


def test_a_single_job_is_answered_whatever_the_handler_and_without_storage(tmp_path: Path) -> None:
    done = run_once(tmp_path, "--test_input", HEALTH, STREAM_HANDLER=1, AUDIO_VOICES_DIR=tmp_path / "new" / "voices")
    assert done.returncode == 0
    assert "'status': 'unhealthy'" in done.stdout
    assert "S3_BUCKET_NAME: not set" in done.stderr
    assert (tmp_path / "new" / "voices").is_dir()
    assert (tmp_path / "output").is_dir()


def test_a_model_that_cannot_be_loaded_ends_a_warm_start(tmp_path: Path) -> None:
    settings = {"ECHO_WARM": 1, "ECHO_MODEL_REPO": tmp_path / "no-model", "ECHO_WORKER_INLINE_AUDIO": 1}
    done = run_once(tmp_path, "--test_input", HEALTH, **settings)
    assert done.returncode == 1
    assert "The model could not be loaded" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_s3_server_is_an_error_that_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AssertionError, match="radosgw-admin not found; an S3 server is needed: apt-get install"):
        Ceph(tmp_path)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[TestClient]:
    """The SDK's local server in this process, with the generator handler and an engine that makes sines."""
    worker = WorkerSettings(output_dir=tmp_path, inline_audio=True, stream_handler=True)
    speaker = Speaker(Settings(), lambda settings, gate: FakeEngine())
    config = sdk_config(speaker, Jobs(Settings(), worker, speaker), worker)
    try:
        with TestClient(WorkerAPI({**config, "rp_args": {}}).rp_app) as client:
            yield client
    finally:
        speaker.close()


def post(api: TestClient, path: str, **job: Any) -> Any:
    return api.post(path, **({"json": {"input": job}} if job else {})).json()


def test_a_stream_is_answered_at_once_by_the_local_server(api: TestClient) -> None:
    queued = post(api, "/run", text="Hello there. " * 20, stream=True)
    answer = post(api, f"/stream/{queued['id']}")
    assert answer["status"] == "COMPLETED"
    pieces = [each["output"] for each in answer["stream"]]
    assert [piece["status"] for piece in pieces] == ["streaming"] * (len(pieces) - 1) + ["complete"]
    assert pieces[-1]["total_chunks"] == len(pieces) - 1 > 3


def test_outputs_of_the_generator_handler_are_lists(api: TestClient) -> None:
    (output,) = post(api, "/runsync", text="Hello.")["output"]
    assert output["status"] == "completed"
    (health,) = post(api, "/runsync", action="health_check")["output"]
    assert health["checks"]["model"] is True
    (error,) = post(api, "/runsync", text="")["output"]
    assert error == {"status": "error", "error": "text is required and must be a text that is not blank."}


class Dying(FakeEngine):
    """An engine whose device stops when it is told to."""

    alive = True

    def healthy(self) -> bool:
        return self.alive


async def test_a_worker_whose_device_has_stopped_asks_to_be_replaced(tmp_path: Path) -> None:
    engine = Dying()
    worker = WorkerSettings(output_dir=tmp_path, inline_audio=True)
    speaker = Speaker(Settings(), lambda settings, gate: engine)
    config = sdk_config(speaker, Jobs(Settings(), worker, speaker), worker)
    job = {"id": "1", "input": {"text": "Hello."}}
    try:
        assert (await config["handler"](job))["status"] == "completed"
        assert "refresh_worker" not in config
        engine.alive = False
        await until(lambda: speaker.has_failed)
        answer = await config["handler"](job)
        assert answer["error"] == "The device has stopped; the server has to be started again."
        assert config["refresh_worker"] is True  # the SDK reads it after each job
        assert (await config["handler"]({"input": {"action": "health_check"}}))["status"] == "unhealthy"
    finally:
        speaker.close()


async def test_a_job_that_is_stopped_while_the_model_loads_does_not_stop_the_loading(tmp_path: Path) -> None:
    gate, loads = threading.Event(), 0

    def load(settings: Settings, _: object) -> FakeEngine:
        nonlocal loads
        loads += 1
        gate.wait(PATIENCE_S)
        return FakeEngine()

    worker = WorkerSettings(output_dir=tmp_path, inline_audio=True, jobs=1)
    speaker = Speaker(Settings(), load)
    handler = sdk_config(speaker, Jobs(Settings(), worker, speaker), worker)["handler"]
    try:
        first = asyncio.create_task(handler({"input": {"text": "Hello."}}))
        await until(lambda: loads == 1)
        first.cancel()
        await asyncio.wait([first])
        second = asyncio.create_task(handler({"input": {"text": "Hello again."}}))
        gate.set()
        assert (await second)["status"] == "completed"
        assert loads == 1
    finally:
        gate.set()
        speaker.close()
