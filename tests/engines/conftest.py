"""Foreign engines in real environments: Kokoro's is made by ``make test``, the others by ``make test-engines``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from echo.settings import HOME

#: Folder of the environments, one of each engine's name.
ENVIRONMENTS = HOME / os.environ.get("TEST_ENGINES", "runs/engines")


def interpreter(engine: str) -> Path:
    """The interpreter of an engine's environment."""
    python = ENVIRONMENTS / engine / "bin" / "python"
    if not python.exists():
        pytest.fail(f"There is no {python}; `make test-engines` makes it.", pytrace=False)
    return python
