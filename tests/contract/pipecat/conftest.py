"""pipecat's log is left out of the output."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.pipecat.hearing import logger


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logger.disable("pipecat")
    yield
    logger.enable("pipecat")
