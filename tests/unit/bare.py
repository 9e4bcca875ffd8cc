"""Processes in which the server's packages cannot be imported, as on a machine that has only what the engine needs."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

from bench import ROOT

#: What the engine needs, and what torch brings along.
ALLOWED = {"numpy", "safetensors", "torch", "typing_extensions"}

_MISSING = """
import importlib.util
import sys

MISSING = {missing}

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in MISSING:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

def find_spec(name, package=None, found=importlib.util.find_spec):
    return None if name in MISSING else found(name, package)

sys.meta_path.insert(0, Missing())
importlib.util.find_spec = find_spec
"""


def server_packages() -> set[str]:
    """Everything that the project depends on but the engine does not."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {requirement.partition(">")[0].strip().replace("-", "_") for requirement in project["dependencies"]}
    return names - ALLOWED


def bare_environment(folder: Path) -> dict[str, str]:
    """The environment of such processes and of all that they start; ``folder`` gets what Python runs at its start."""
    (folder / "sitecustomize.py").write_text(_MISSING.format(missing=sorted(server_packages())), encoding="utf-8")
    return {**os.environ, "PYTHONPATH": str(folder)}
