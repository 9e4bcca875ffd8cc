"""The examples of docs/workers.md, run as a reader would, but aimed at a worker of the test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.contract.docs.pages import Page

PAGE = Page("../workers")
#: Where the page says that the endpoint is, in the shell's words and in Python's.
_ENDPOINT = ("https://api.runpod.ai/v2/$ENDPOINT_ID", "https://api.runpod.ai/v2/{os.environ['ENDPOINT_ID']}")


def run_example(heading: str, language: str, url: str, folder: Path) -> str:
    """Run the example under a heading in a folder, against the worker at ``url``; return what it prints."""
    code = PAGE.block(heading, language)
    for endpoint in _ENDPOINT:
        code = code.replace(endpoint, url)
    command = (
        ["bash", "-c", f"set -o errexit -o pipefail\n{code}"] if language == "bash" else [sys.executable, "-c", code]
    )
    where = url.removeprefix("http://")
    # The SDK's client makes its address of a base and the endpoint's id; the local server has no path before /runsync.
    variables = {"ENDPOINT_ID": where, "RUNPOD_API_KEY": "key", "RUNPOD_ENDPOINT_BASE_URL": "http:/"}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **variables, "PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout


def answer_of(folder: Path) -> dict[str, Any]:
    """What an example's curl has written."""
    return dict(json.loads((folder / "answer.json").read_text()))


def shape(value: Any) -> Any:
    """The names in an answer and the kinds of their values."""
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items()}
    return type(value).__name__


def promised(heading: str) -> Any:
    """The shape of the answer that the page shows under a heading."""
    return shape(json.loads(PAGE.block(heading, "json")))
