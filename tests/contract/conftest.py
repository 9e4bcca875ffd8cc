"""Fixtures of the contract tests: servers on real ports."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from echo.engines.fake import FakeEngine, FakeScript
from echo.engines.table import EngineLoader
from echo.runtime import Runtime
from echo.settings import Settings
from tests.contract import far_end
from tests.contract.clock import clock
from tests.contract.cloning import clone_home, clone_server, cloning, home
from tests.contract.docs.checkout import checkout, checkout_server
from tests.contract.serving import Serve, Served, serving, write_voice

__all__ = ["checkout", "checkout_server", "clock", "clone_home", "clone_server", "cloning", "home"]


@pytest.fixture(scope="session")
def voices_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the voices ``anna`` (the first, so the default), ``bob`` and ``Old Man``; not to be changed."""
    folder = tmp_path_factory.mktemp("voices")
    for name in ("anna", "bob", "Old Man"):
        write_voice(folder / f"{name}.wav")
    return folder


@pytest.fixture(scope="session")
def running(voices_dir: Path) -> Iterator[Served]:
    """One server for all tests that need no settings of their own; use ``server``."""
    with serving(Settings(voices_dir=(str(voices_dir),))) as served:
        yield served


@pytest.fixture
def server(running: Served) -> Iterator[Served]:
    """A ready server with default settings, three voices and a fresh script."""
    running.engine.script = FakeScript()
    yield running
    running.wait_idle()


@pytest.fixture
def serve(voices_dir: Path) -> Iterator[Serve]:
    """Start servers with other settings; ``voices_dir`` defaults to the three voices."""
    with ExitStack() as stack:

        def start(load_engine: EngineLoader | None = None, **settings: Any) -> Served:
            values = {"voices_dir": (str(voices_dir),), **settings}
            return stack.enter_context(serving(Settings(**values), load_engine))

        yield start


@pytest.fixture
def engine() -> FakeEngine:
    """The engine of ``runtime``."""
    return FakeEngine()


@pytest.fixture
async def runtime(voices_dir: Path, engine: FakeEngine) -> AsyncIterator[Runtime]:
    """A ready runtime with three voices, for sockets without a server."""
    async with far_end.running(voices_dir, engine) as opened:
        yield opened
