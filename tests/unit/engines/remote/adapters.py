"""The server's own adapters, loaded by path as the child does."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import pytest

from echo.engines.remote.config import CHILD


@contextmanager
def adapter(name: str) -> Iterator[ModuleType]:
    """An adapter's module, and for as long the module ``child`` that it imports."""
    with pytest.MonkeyPatch.context() as patch:
        for stem in ("child", name):
            spec = importlib.util.spec_from_file_location(stem, CHILD.with_name(f"{stem}.py"))
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            patch.setitem(sys.modules, stem, module)
            spec.loader.exec_module(module)
        yield module
