"""Foreign engines in real environments: Kokoro's is made by ``make test``, the others by ``make test-engines``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from echo.settings import HOME
from tests.engines.process import PATIENCE_S

#: Folder of the environments, one of each engine's name.
ENVIRONMENTS = HOME / os.environ.get("TEST_ENGINES", "runs/engines")


@pytest.fixture(scope="module", autouse=True)
def patience() -> Iterator[None]:
    """Real engines take longer to load and to speak than the tests of a fake one wait, above all on a busy machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.contract.serving.LOADING_S", PATIENCE_S)
        for client in ("chatterbox", "elevenlabs", "inworld"):
            patch.setattr(f"tests.contract.{client}.calls.PATIENCE_S", PATIENCE_S)
        yield


def interpreter(engine: str) -> Path:
    """The interpreter of an engine's environment."""
    python = ENVIRONMENTS / engine / "bin" / "python"
    if not python.exists():
        pytest.fail(f"There is no {python}; `make test-engines` makes it.", pytrace=False)
    return python
