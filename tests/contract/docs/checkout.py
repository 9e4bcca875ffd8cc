"""A server as a fresh checkout has it: default settings, the bundled voices; what the pages take for granted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from echo.engines.fake import FakeScript
from echo.settings import Settings
from tests.contract.serving import Served, serving


@pytest.fixture(scope="package")
def checkout_server() -> Iterator[Served]:
    with serving(Settings()) as served:
        yield served


@pytest.fixture
def checkout(checkout_server: Served) -> Iterator[Served]:
    """A server with default settings, the bundled voices and a fresh script."""
    checkout_server.engine.script = FakeScript()
    yield checkout_server
    checkout_server.wait_idle()
