"""A server that takes clones and speaks very briefly, to be sent anything at all."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from echo.settings import Settings
from tests.contract.serving import Served, serving, write_voice


@pytest.fixture(scope="package")
def fuzzed_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder: Path = tmp_path_factory.mktemp("voices")
    for name in ("anna", "bob"):
        write_voice(folder / f"{name}.wav", seconds=0.5)
    settings = Settings(
        voices_dir=(str(folder),),
        inworld_clone_enabled=True,
        inworld_max_sample_size=100_000,
        jobs_dir=tmp_path_factory.mktemp("jobs"),
        jobs_waiting=10_000,
        client_share=1.0,
    )
    with serving(settings) as served:
        served.script.audio_s_per_char = 0.0005
        yield served


@pytest.fixture
def fuzzed(fuzzed_server: Served, caplog: pytest.LogCaptureFixture) -> Iterator[Served]:
    """A server whose log must hold no error at the end of the test."""
    with caplog.at_level(logging.ERROR):
        yield fuzzed_server
    assert [record.getMessage() for record in caplog.records] == []
    fuzzed_server.wait_idle()
    fuzzed_server.script.spoken.clear()
