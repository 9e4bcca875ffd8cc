"""Uploads into a real S3 server, which checks signatures, by themselves and by a worker behind the SDK's local server.

In one file, so that the server is started once.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import av
import httpx
import numpy as np
import pytest

from echo.engines.fake import FakeEngine
from echo.settings import Settings
from tests.contract.serving import serving, wait_until, write_voice
from tests.contract.worker.buckets import BUCKET, Wire, client, keys, storage_environment, storage_settings
from tests.contract.worker.ceph import ACCESS_KEY, SECRET_KEY, Ceph
from tests.contract.worker.examples import answer_of, promised, run_example, shape
from tests.contract.worker.hub import REPOSITORY, fill_cache
from tests.contract.worker.process import LocalServer
from tests.processes import ROOT, free_port
from train.tiny.prompts import VOICES
from worker.jobs import Jobs
from worker.speaker import Speaker
from worker.storage import Storage, UploadFailed

DATA = bytes(range(256)) * 8192  # 2 MB


@pytest.fixture
def running(ceph: Ceph) -> Iterator[Ceph]:
    """The server, with an empty bucket; a test that has let it hang wakes it up."""
    yield ceph
    ceph.resume()
    for key in keys(ceph):
        client(ceph).delete_object(Bucket=BUCKET, Key=key)


def upload(ceph: Ceph, key: str = "one.ogg", data: bytes = DATA, **settings: Any) -> str:
    storage = Storage(storage_settings(ceph, **settings))
    return asyncio.run(storage.upload(io.BytesIO(data), key, "audio/ogg")).url


def reachable(ceph: Ceph, **settings: Any) -> bool:
    return asyncio.run(Storage(storage_settings(ceph, **settings)).reachable())


def failure(ceph: Ceph, **settings: Any) -> str:
    with pytest.raises(UploadFailed) as failed:
        upload(ceph, **settings)
    message = failed.value.message
    assert message.startswith("The audio could not be uploaded: ")
    for secret in (ACCESS_KEY, BUCKET, "127.0.0.1", "Traceback"):
        assert secret not in message
    return message.removeprefix("The audio could not be uploaded: ")


def test_a_file_is_an_object_behind_a_url_that_returns_it(running: Ceph) -> None:
    url = upload(running, "my-session.ogg")
    assert url.startswith(f"{running.url}/{BUCKET}/my-session.ogg?")  # by path, not by host name
    assert "X-Amz-Expires=3600" in url
    answer = httpx.get(url)
    assert (answer.status_code, answer.headers["content-type"], answer.content == DATA) == (200, "audio/ogg", True)
    assert httpx.get(url, headers={"Range": "bytes=256-258"}).content == b"\x00\x01\x02"
    assert httpx.get(f"{running.url}/{BUCKET}/my-session.ogg").status_code == 403
    upload(running, "my-session.ogg", b"again")
    assert httpx.get(url).content == b"again"


def test_results_of_the_servers_jobs_go_into_a_bucket_too(
    running: Ceph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", running.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    write_voice(tmp_path / "anna.wav")
    with serving(
        Settings(voices_dir=(str(tmp_path),), jobs_dir=tmp_path / "jobs", jobs_s3=f"s3://{BUCKET}/books")
    ) as server:
        job = httpx.post(server.url + "/v1/audio/jobs", json={"input": "Hello.\fAgain."}).json()
        wait_until(lambda: httpx.get(f"{server.url}/v1/audio/jobs/{job['id']}").json()["status"] == "completed")
        names = {f"books/{job['id']}/{name}" for name in ("chapter-001.mp3", "chapter-002.mp3", "whole.mp3")}
        assert keys(running) == names
        assert list((tmp_path / "jobs" / job["id"] / "results").iterdir()) == []
        audio = httpx.get(f"{server.url}/v1/audio/jobs/{job['id']}/content", follow_redirects=True)
        assert (audio.headers["content-type"], audio.status_code) == ("audio/mpeg", 200)
        httpx.delete(f"{server.url}/v1/audio/jobs/{job['id']}")
        wait_until(lambda: not keys(running))


def test_a_url_ends_with_its_life(running: Ceph) -> None:
    lasting, url = upload(running), upload(running, s3_url_expires_s=1)
    deadline = time.monotonic() + 30
    while (status := httpx.get(url).status_code) == 200:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert status == 403
    assert httpx.get(lasting).status_code == 200
    assert "X-Amz-Expires=604800" in upload(running, s3_url_expires_s=604_800)


def test_a_tampered_url_is_refused(running: Ceph) -> None:
    url = upload(running)
    upload(running, "two.ogg")
    signature = re.search(r"X-Amz-Signature=([0-9a-f]+)", url)
    assert signature is not None
    for tampered in (
        url.replace("one.ogg", "two.ogg"),
        url.replace("X-Amz-Expires=3600", "X-Amz-Expires=36000"),
        url.replace(signature[1], signature[1][::-1]),
    ):
        assert tampered != url
        assert httpx.get(tampered).status_code == 403


def test_wrong_keys_are_refused(running: Ceph) -> None:
    refused = "the storage refused the access keys."
    assert failure(running, S3_SECRET_ACCESS_KEY="wrong") == refused
    assert failure(running, S3_ACCESS_KEY_ID="NOBODY") == refused
    assert keys(running) == set()
    assert not reachable(running, S3_SECRET_ACCESS_KEY="wrong")


def test_a_missing_bucket_is_named_as_such(running: Ceph) -> None:
    assert failure(running, S3_BUCKET_NAME="nothere") == "the bucket does not exist."
    assert not reachable(running, S3_BUCKET_NAME="nothere")
    assert reachable(running)


def test_a_server_that_goes_in_the_middle_of_an_upload_leaves_no_object(running: Ceph) -> None:
    with Wire(running, cut_after=500_000) as wire:
        message = failure(running, S3_ENDPOINT_URL=wire.url)
        assert message == "the connection to the storage broke."
        assert wire.connections == 2  # it was tried twice
    assert keys(running) == set()


def test_an_upload_that_broke_is_tried_again(running: Ceph) -> None:
    with Wire(running, cut_after=500_000, cuts=1) as wire:
        url = upload(running, S3_ENDPOINT_URL=wire.url)
        assert wire.connections == 2
        assert httpx.get(url).content == DATA


def test_a_server_that_is_not_there(running: Ceph) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    assert failure(running, S3_ENDPOINT_URL=nowhere) == "the storage cannot be reached."
    assert not reachable(running, S3_ENDPOINT_URL=nowhere)


def test_a_server_that_hangs_is_given_up_and_used_again_when_it_answers(running: Ceph) -> None:
    storage = Storage(storage_settings(running, s3_timeout_s=1.0, s3_attempts=1))
    running.pause()
    with pytest.raises(UploadFailed, match="the storage did not answer in time"):
        asyncio.run(storage.upload(io.BytesIO(b"x"), "one.ogg", "audio/ogg"))
    assert not asyncio.run(storage.reachable())
    running.resume()

    def uploaded() -> bool:
        with contextlib.suppress(UploadFailed):  # it may take more than a second to wake up
            return asyncio.run(storage.upload(io.BytesIO(b"y"), "two.ogg", "audio/ogg")).key == "two.ogg"
        return False

    wait_until(uploaded)


def test_a_slow_server_is_waited_for(running: Ceph) -> None:
    with Wire(running, pause_s=0.02) as wire:
        url = upload(running, S3_ENDPOINT_URL=wire.url, s3_timeout_s=30)
        assert httpx.get(url).content == DATA


class Watched(io.BytesIO):
    """A file that says when it is being sent."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.started = threading.Event()
        self._reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self._reads += 1
        if self._reads > 4:
            self.started.set()
        return super().read(size)


async def test_an_upload_ends_when_its_file_is_closed(running: Ceph, tmp_path: Path) -> None:
    with Wire(running, pause_s=0.05) as wire:
        storage = Storage(storage_settings(running, S3_ENDPOINT_URL=wire.url))
        file: IO[bytes] = Watched(DATA * 8)
        task = asyncio.create_task(storage.upload(file, "one.ogg", "audio/ogg"))
        assert isinstance(file, Watched)
        await asyncio.to_thread(file.started.wait, 30)
        task.cancel()
        file.close()
        await asyncio.wait([task])
        assert task.cancelled()
        await asyncio.to_thread(storage.close)  # waits for the upload's thread
    assert keys(running) == set()


# -- the worker behind the SDK's local server


@pytest.fixture(scope="module")
def worker(ceph: Ceph, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """A worker with the plain handler; its model comes from a cache that was filled beforehand, with the first job."""
    folder = tmp_path_factory.mktemp("worker")
    settings = {
        **storage_environment(ceph),
        "S3_ATTEMPTS": 2,
        "AUDIO_VOICES_DIR": ROOT / "audio_prompts",
        "ECHO_MODEL_REPO": REPOSITORY,
        "HF_HUB_CACHE": fill_cache(folder / "hub"),
    }
    with LocalServer(folder, **settings) as process:
        process.wait_for_log("Uvicorn running")
        yield process
        process.stop()
        assert "Traceback" not in process.log


def plays(data: bytes) -> float:
    """Seconds that a player plays of an Ogg Opus file; it is one of 24 kHz with sound in it."""
    assert data.startswith(b"OggS")
    head = data[data.index(b"OpusHead") :]
    assert int.from_bytes(head[12:16], "little") == 24_000
    with av.open(io.BytesIO(data)) as file:
        samples = np.concatenate([frame.to_ndarray() for frame in file.decode(audio=0)], axis=1)[0]
        assert np.abs(samples).max() > 0.05
        return len(samples) / file.streams.audio[0].rate


def test_the_worker_says_on_one_page_what_it_found(running: Ceph, worker: LocalServer) -> None:
    page = worker.log[: worker.log.index("takes jobs")]
    for line in (
        f"{len(VOICES)} clips in ",
        f"bucket {BUCKET} at {running.url}, region us-east-1, URLs live 3600 s; it answers",
        f"{REPOSITORY} (in the cache)",
        "the SDK's local server on",
        "offline, without a token",
    ):
        assert line in page, page
    took = re.search(r"takes jobs (\S+) s after its start, (\S+) s of them for imports", worker.log)
    assert took
    assert 0.0 < float(took[2]) <= float(took[1])
    assert SECRET_KEY not in worker.log


def test_the_curl_example_makes_an_object_behind_a_url_that_plays(
    running: Ceph, worker: LocalServer, tmp_path: Path
) -> None:
    run_example("An Echo job", "bash", worker.url, tmp_path)
    answer = answer_of(tmp_path)
    assert shape(answer) == promised("An Echo job")
    output = answer["output"]
    assert (output["s3_key"], output["filename"], output["metadata"]["seed"]) == ("hello-1.ogg", "hello-1.ogg", 42)
    assert keys(running) == {"hello-1.ogg"}
    assert plays((tmp_path / "hello-1.ogg").read_bytes()) == pytest.approx(output["metadata"]["duration"], abs=0.1)
    assert httpx.get(output["url"]).headers["content-type"] == "audio/ogg"


def test_the_python_example(running: Ceph, worker: LocalServer, tmp_path: Path) -> None:
    said = run_example("An Echo job", "python", worker.url, tmp_path)
    assert float(said.split()[0]) == pytest.approx(plays((tmp_path / "hello-2.ogg").read_bytes()), abs=0.1)


def test_the_sdks_client(running: Ceph, worker: LocalServer, tmp_path: Path) -> None:
    url = run_example("With RunPod's SDK", "python", worker.url, tmp_path).strip()
    assert plays(httpx.get(url).content) > 0.5


def test_the_index_example(running: Ceph, worker: LocalServer, tmp_path: Path) -> None:
    run_example("An IndexTTS job", "bash", worker.url, tmp_path)
    answer = answer_of(tmp_path)
    assert shape(answer) == promised("An Echo job")
    assert plays(httpx.get(answer["output"]["url"]).content) > 1


def test_the_health_example(running: Ceph, worker: LocalServer, tmp_path: Path) -> None:
    run_example("Health", "bash", worker.url, tmp_path)
    answer = answer_of(tmp_path)
    assert shape(answer) == promised("Health")
    assert answer["output"]["status"] == "healthy"
    assert answer["output"]["checks"]["audio_files"] == len(VOICES)


def test_the_same_seed_is_the_same_file(running: Ceph, worker: LocalServer) -> None:
    contents = []
    for session in ("a", "b"):
        answer: Any = worker.post(
            "/runsync", text="The same.", session_id=session, parameters={"seed": 9, "num_steps": 2}
        )
        contents.append(plays(httpx.get(answer["output"]["url"]).content))
    assert contents[0] == contents[1]


def test_run_and_status_are_the_same_job(running: Ceph, worker: LocalServer) -> None:
    queued: Any = worker.post("/run", text="Later, please.", session_id="later", parameters={"num_steps": 2})
    done: Any = worker.post(f"/status/{queued['id']}")
    assert (done["status"], done["output"]["s3_key"]) == ("COMPLETED", "later.ogg")


def test_failed_jobs_say_why(running: Ceph, worker: LocalServer) -> None:
    for job, error in (
        ({"text": " "}, "text is required and must be a text that is not blank."),
        ({"text": "x", "speaker_voice": "../secret.wav"}, "speaker_voice '../secret.wav' not found."),
        ({"text": "x", "speaker_voice": "a.txt"}, "Unsupported speaker_voice extension '.txt'; use one of .wav,"),
        ({"text": "x", "parameters": {"num_steps": 0}}, "num_steps must be an integer from 1 to 100."),
        ({"text": "x", "emo_vector": [0.1] * 8}, "emo_vector is not supported: echo-tiny takes no such emotion."),
    ):
        answer = worker.post("/runsync", **job)
        assert answer["status"] == "FAILED"
        assert str(answer["error"]).startswith(error)
    assert keys(running) == set()


def test_storage_that_breaks_fails_the_job_and_leaves_nothing(ceph: Ceph, tmp_path: Path) -> None:
    """With jobs instead of a process, to have the wire between worker and storage in the test's hands."""
    with Wire(ceph, cut_after=2_000) as wire:
        worker = storage_settings(ceph, S3_ENDPOINT_URL=wire.url, OUTPUT_AUDIO_DIR=str(tmp_path))
        speaker = Speaker(Settings(), lambda settings, gate: FakeEngine())
        try:
            answer = speaker.run_now(Jobs(Settings(), worker, speaker).whole({"text": "Hello. " * 30}))
        finally:
            speaker.close()
    assert answer == {
        "status": "error",
        "error": "The audio could not be uploaded: the connection to the storage broke.",
    }
    assert list(tmp_path.iterdir()) == []
    assert keys(ceph) == set()
