"""Uploads into a real S3 server, which checks signatures: what works, and how each failure is told."""

from __future__ import annotations

import asyncio
import io
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import httpx
import pytest

from tests.contract.worker.buckets import BUCKET, Wire, client, keys, storage_settings
from tests.contract.worker.ceph import ACCESS_KEY, Ceph
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


def test_a_url_ends_with_its_life(running: Ceph) -> None:
    url = upload(running, s3_url_expires_s=1)
    assert httpx.get(url).status_code == 200
    deadline = time.monotonic() + 30
    while (status := httpx.get(url).status_code) == 200:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert status == 403
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
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}"
    assert failure(running, S3_ENDPOINT_URL=nowhere) == "the storage cannot be reached."
    assert not reachable(running, S3_ENDPOINT_URL=nowhere)


def test_a_server_that_hangs_is_given_up_and_used_again_when_it_answers(running: Ceph) -> None:
    storage = Storage(storage_settings(running, s3_timeout_s=1.0, s3_attempts=1))
    running.pause()
    with pytest.raises(UploadFailed, match="the storage did not answer in time"):
        asyncio.run(storage.upload(io.BytesIO(b"x"), "one.ogg", "audio/ogg"))
    assert not asyncio.run(storage.reachable())
    running.resume()
    assert asyncio.run(storage.upload(io.BytesIO(b"y"), "two.ogg", "audio/ogg")).key == "two.ogg"


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
