"""Fixtures of the worker's tests: a real S3 server, started once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.worker.buckets import BUCKET, client
from tests.contract.worker.ceph import Ceph


@pytest.fixture(scope="session")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ceph]:
    """The S3 server, with a bucket."""
    with Ceph(tmp_path_factory.mktemp("ceph")) as server:
        client(server).create_bucket(Bucket=BUCKET)
        yield server
