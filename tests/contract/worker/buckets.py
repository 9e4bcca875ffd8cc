"""The bucket of the tests, as its operator sees it, and a wire to the server that may be cut or slow."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Any, Self

import boto3
from botocore.config import Config

from tests.contract.worker.ceph import ACCESS_KEY, SECRET_KEY, Ceph
from worker.settings import WorkerSettings

BUCKET = "speech"


def client(ceph: Ceph) -> Any:
    """A client with the operator's keys."""
    return boto3.client(
        "s3",
        endpoint_url=ceph.url,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
    )


def keys(ceph: Ceph) -> set[str]:
    """What lies in the bucket."""
    return {each["Key"] for each in client(ceph).list_objects_v2(Bucket=BUCKET).get("Contents", [])}


def storage_environment(ceph: Ceph) -> dict[str, str]:
    """The variables of a worker that uploads into the bucket."""
    return {
        "S3_ENDPOINT_URL": ceph.url,
        "S3_ACCESS_KEY_ID": ACCESS_KEY,
        "S3_SECRET_ACCESS_KEY": SECRET_KEY,
        "S3_BUCKET_NAME": BUCKET,
    }


def storage_settings(ceph: Ceph, **more: Any) -> WorkerSettings:
    """The same as settings."""
    return WorkerSettings(**{**storage_environment(ceph), "s3_attempts": 2, **more})


class Wire:
    """A wire to the server. ``cut_after``: bytes of an upload after which a connection is cut, ``cuts`` times."""

    def __init__(self, ceph: Ceph, *, cut_after: int | None = None, cuts: int = 1_000_000, pause_s: float = 0) -> None:
        self._target = ("127.0.0.1", ceph.port)
        self._cut_after, self._pause_s = cut_after, pause_s
        self.cuts_left = cuts
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._ends: list[socket.socket] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        for end in self._ends:
            end.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            far = socket.create_connection(self._target)
            self._ends += [near, far]
            threading.Thread(target=self._up, args=(near, far), daemon=True).start()
            threading.Thread(target=self._copy, args=(far, near), daemon=True).start()

    def _up(self, near: socket.socket, far: socket.socket) -> None:
        sent = 0
        try:
            while data := near.recv(65536):
                sent += len(data)
                if self._cut_after is not None and sent > self._cut_after and self.cuts_left > 0:
                    self.cuts_left -= 1
                    break
                far.sendall(data)
                time.sleep(self._pause_s)
        except OSError:
            pass
        finally:
            _hang_up(near)
            _hang_up(far)

    def _copy(self, far: socket.socket, near: socket.socket) -> None:
        try:
            while data := far.recv(65536):
                near.sendall(data)
        except OSError:
            pass
        finally:
            _hang_up(near)
            _hang_up(far)


def _hang_up(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
