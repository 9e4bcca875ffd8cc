"""What the engine needs: a GPU machine on which it is measured may have torch, numpy and safetensors only."""

from __future__ import annotations

import subprocess
import sys
import tomllib

from bench import ROOT

#: What torch itself brings along, beside the three.
ALLOWED = {"numpy", "safetensors", "torch", "typing_extensions"}
BARE = """
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


def bare(code: str) -> list[str]:
    """A command that runs code where none of the server's packages can be imported."""
    return [sys.executable, "-c", BARE.format(missing=sorted(server_packages())) + code]


def test_the_engine_needs_none_of_the_servers_packages() -> None:
    assert {"av", "fastapi", "huggingface_hub", "pydantic", "soxr"} <= server_packages()
    modules = "echo.engines.block, echo.engines.accelerate, echo.model.files.weights"
    subprocess.run(bare(f"import {modules}"), cwd=ROOT, check=True, timeout=300)
