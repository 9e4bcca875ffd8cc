"""Fixtures of the end-to-end tests: processes that every test can share, because starting one takes seconds."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.server_process import QUICK, ServerProcess
from tests.processes import copy_bundled_voices

Start = Callable[..., ServerProcess]


@pytest.fixture(scope="session")
def voices_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A voices folder with the clips that come with the server; tests may add to it what they remove again."""
    return copy_bundled_voices(tmp_path_factory.mktemp("voices"))


@pytest.fixture(scope="session")
def running(voices_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The shared server; use ``server``. Whatever has happened to it, SIGTERM ends it cleanly."""
    with ServerProcess(tmp_path_factory.mktemp("server"), ECHO_VOICES_DIR=voices_dir) as process:
        yield process.wait_ready()
        process.send_signal(signal.SIGTERM)
        process.assert_ends_cleanly(signal.SIGTERM)


@pytest.fixture
def server(running: ServerProcess) -> Iterator[ServerProcess]:
    """A ready server with default settings and nothing to do; the test may leave it nothing to do either."""
    yield running
    assert "Traceback" not in running.log
    running.wait_idle()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a server with settings of its own, which warms up quickly; it is gone at the end of the test."""
    with ExitStack() as stack:

        def run(*arguments: str, **settings: object) -> ServerProcess:
            return stack.enter_context(ServerProcess(tmp_path, *arguments, **{**QUICK, **settings}))

        yield run


class Held:
    """A server whose loading waits until ``release``: a file that it reads then is a pipe that nobody writes to."""

    def __init__(self, folder: Path) -> None:
        self._pipe = folder / "words.txt"
        os.mkfifo(self._pipe)
        self.server = ServerProcess(folder, ECHO_UPPERCASE_WORDS_FILE=self._pipe, **QUICK)

    def release(self) -> None:
        """Let it load."""
        self._pipe.write_text("# no words\n", encoding="utf-8")


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Held]:
    """A server that loads for as long as the test likes."""
    made = Held(tmp_path)
    with made.server:
        yield made
