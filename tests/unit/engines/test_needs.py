"""What the engine needs: a GPU machine on which it is measured may have torch, numpy and safetensors only."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench import ROOT
from tests.unit.bare import bare_environment, server_packages


@pytest.mark.slow
def test_the_engine_needs_none_of_the_servers_packages(tmp_path: Path) -> None:
    assert {"av", "fastapi", "huggingface_hub", "pydantic", "soxr"} <= server_packages()
    code = "import echo.engines.block, echo.engines.accelerate, echo.model.files.weights"
    env = bare_environment(tmp_path)
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, check=True, timeout=300)
    refused = subprocess.run([sys.executable, "-c", "import pydantic"], env=env, capture_output=True, check=False)
    assert b"No module named 'pydantic'" in refused.stderr
