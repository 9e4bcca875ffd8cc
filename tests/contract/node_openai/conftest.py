"""The official Node SDK, where there is a node.

Without node, npm, or a registry to install from, the tests of this folder do not exist, and the output says so.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent
#: What npm says when it is the network that is missing; anything else it may say is a failure.
_OFFLINE = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH", "ERR_SOCKET_TIMEOUT")


def _missing() -> str | None:
    """Install the SDK beside this file unless it is there; returns what keeps it from being used."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        return "node and npm are not both installed"
    if (HERE / "node_modules").is_dir():
        return None
    # Made elsewhere and moved here in one step: the processes of a distributed run all come by.
    with tempfile.TemporaryDirectory(dir=HERE, prefix=".npm-") as folder:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, folder)
        command = ["npm", "ci", "--no-audit", "--no-fund", "--fetch-retries=1", "--fetch-timeout=30000"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode and any(sign in done.stderr for sign in _OFFLINE):
            return "npm cannot reach its registry"
        assert done.returncode == 0, done.stderr
        with contextlib.suppress(OSError):  # another process was first
            (Path(folder) / "node_modules").rename(HERE / "node_modules")
    return None


MISSING = _missing()
collect_ignore_glob = [] if MISSING is None else ["test_*.py"]


def pytest_configure(config: pytest.Config) -> None:
    if MISSING is not None:
        capture = config.pluginmanager.getplugin("capturemanager")
        assert capture is not None
        with capture.global_and_fixture_disabled():
            sys.stderr.write(f"\ntests/contract/node_openai is left out: {MISSING}.\n")
