"""The wheel that an image installs: complete, and found by itself where there is no checkout."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.processes import ROOT
from train.tiny.prompts import VOICES

pytestmark = pytest.mark.slow

#: Printed from the unpacked wheel, with the project's dependencies but without the checkout.
LOOK = """
import sys
sys.path.insert(0, sys.argv[1])
import api_server
from echo.engines.remote.config import CHILD
from echo.settings import load_settings
settings = load_settings({})
print(api_server.__file__, settings.presets_path, *settings.voice_folders, CHILD, sep="\\n")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


def source_files(*folders: str) -> set[str]:
    """Everything in these folders of the checkout that is not made by running it."""
    files = (path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file())
    return {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts}


def test_the_wheel_has_every_file_of_its_packages(wheel: Path) -> None:
    packages = source_files("compat", "echo", "engines", "routes", "scale", "server", "worker")
    clips = {f"audio_prompts/{name}.flac" for name in VOICES}
    others = {"presets.toml", "audio_prompts/README.md", "audio_prompts/voices.json"}
    bundled = {f"echo/assets/{name}" for name in clips | others}
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert found == packages | bundled | {"api_server.py"}
    assert "echo/assets/tiny/echo_tiny.safetensors" in found


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        texts = {Path(name).name: archive.read(name).decode() for name in archive.namelist() if ".dist-info/" in name}
    assert {"LICENSE", "NOTICE"} <= set(texts)
    assert "echo-tts = echo.cli:main" in texts["entry_points.txt"]
    assert "Requires-Dist: fastapi" in texts["METADATA"]


def test_an_installed_server_finds_its_own_files(wheel: Path, tmp_path: Path) -> None:
    installed = tmp_path / "site-packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    command = [sys.executable, "-I", "-c", LOOK, str(installed)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [
        str(installed / "api_server.py"),
        str(installed / "echo/assets/presets.toml"),
        str(installed / "echo/assets/audio_prompts"),
        str(installed / "engines/child.py"),
    ]
    assert all(Path(path).exists() for path in done.stdout.split())
