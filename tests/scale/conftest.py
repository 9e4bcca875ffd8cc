"""Ray's own warnings are not ours to mend."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    for line in (
        "ignore::pydantic.warnings.PydanticDeprecatedSince20",
        "ignore::DeprecationWarning:ray",
        "ignore::FutureWarning:ray",
        "ignore::ResourceWarning",
        "ignore::pytest.PytestUnraisableExceptionWarning",
    ):
        config.addinivalue_line("filterwarnings", line)
