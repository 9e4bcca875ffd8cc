"""A server that takes clones, clips to upload to it, and a look at what it did to the disk."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from echo.engines.fake import FakeScript
from echo.settings import Settings
from tests.contract.serving import Served, serving, write_voice

#: Limit of the samples of one clone, in bytes: small, so that the tests of it are quick.
MAX_SAMPLE_BYTES = 300_000
#: Names that try to get out of a folder, out of a header or past a check; ``{home}`` is where outside.wav lies.
HOSTILE_NAMES = [
    "../outside",
    "../outside.wav",
    "..",
    "../voices/anna",
    "./anna/../../outside",
    "..\\outside",
    "..%2foutside",
    "%2e%2e/outside",
    "%2e%2e%2foutside",
    "%252e%252e%252foutside",
    "..%5coutside",
    "..%c0%afoutside",
    "anna%00",
    "outside%00.wav",
    "/etc/passwd",
    "%2fetc%2fpasswd",
    "{home}/outside.wav",
    "file://{home}/outside.wav",
    "anna\r\nX-Evil: 1",
    "anna\x00",
    "\x00",
    "....//outside",
    "..;/outside",
    "~/outside",
]


def clip(kind: str = "WAV", *, seconds: float = 1.5, level: float = 0.3, rate: int = 16_000) -> bytes:
    """Make a recording of a tone."""
    samples = level * np.sin(2 * np.pi * 220 / rate * np.arange(int(seconds * rate)))
    target = io.BytesIO()
    soundfile.write(target, samples, rate, format=kind)
    return target.getvalue()


def base64_clip(kind: str = "WAV", **options: float) -> str:
    return base64.b64encode(clip(kind, **options)).decode()  # type: ignore[arg-type]


def snapshot(home: Path) -> dict[str, bytes]:
    """Read every file under a folder, hidden ones included."""
    return {str(path.relative_to(home)): path.read_bytes() for path in sorted(home.rglob("*")) if path.is_file()}


def changed(before: dict[str, bytes], after: dict[str, bytes]) -> set[str]:
    """Return the names of files that came, went or changed."""
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


# -- fixtures, imported by tests/contract/conftest.py


@pytest.fixture(scope="package")
def clone_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the voices folder lies, and beside it ``outside.wav``."""
    folder = tmp_path_factory.mktemp("cloning")
    (folder / "voices").mkdir()
    write_voice(folder / "voices" / "anna.wav")
    write_voice(folder / "outside.wav")
    return folder


@pytest.fixture(scope="package")
def clone_server(clone_home: Path) -> Iterator[Served]:
    """A server with cloning on; its only voice is ``anna``."""
    settings = Settings(
        voices_dir=(str(clone_home / "voices"),),
        inworld_clone_enabled=True,
        inworld_max_sample_size=MAX_SAMPLE_BYTES,
    )
    with serving(settings) as served:
        yield served


@pytest.fixture
def home(clone_home: Path, clone_server: Served) -> Path:
    """The same folder without any clones."""
    for path in (clone_home / "voices").iterdir():
        if path.name != "anna.wav":
            path.unlink()
    return clone_home


@pytest.fixture
def cloning(clone_server: Served, home: Path) -> Served:
    """The server without any clones and with a fresh script."""
    clone_server.engine.script = FakeScript()
    return clone_server
