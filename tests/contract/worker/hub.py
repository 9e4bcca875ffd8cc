"""A hub cache as a platform fills it beforehand, with the embedded model under a repository's name."""

from __future__ import annotations

from pathlib import Path

from tests.processes import ROOT

REPOSITORY = "somebody/echo-tiny"


def fill_cache(folder: Path) -> Path:
    """Write the cache into a folder as huggingface_hub lays it out, and return it."""
    model = folder / "models--somebody--echo-tiny"
    snapshot = model / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    for file in (ROOT / "echo" / "assets" / "tiny").iterdir():
        (snapshot / file.name).symlink_to(file)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("0" * 40)
    return folder
