"""engines.toml, and the memory that its engines claim."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from echo.engines.remote.config import RemoteConfig, check_memory, read_engines
from echo.engines.remote.load import load_remote
from echo.errors import ConfigError
from echo.settings import Settings
from tests.unit.engines.remote.processes import config


def read(folder: Path, text: str) -> dict[str, RemoteConfig]:
    (folder / "adapter.py").touch()
    file = folder / "engines.toml"
    file.write_text(text)
    return read_engines(file)


def test_without_a_file_there_are_no_engines(tmp_path: Path) -> None:
    assert read_engines(tmp_path / "engines.toml") == {}


def test_paths_start_at_the_files_folder(tmp_path: Path) -> None:
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "python").touch()
    tables = 'adapter = "adapter.py"\nmodel = "org/model"\nmemory_gb = 3\n[own.options]\nfast = true\n'
    engines = read(tmp_path, f'[own]\n{tables}[other]\nadapter = "adapter.py"\npython = "venv"\n')
    assert engines["own"].adapter == tmp_path / "adapter.py"
    assert engines["own"].command == (sys.executable,)
    assert engines["own"].table.options == {"fast": True}
    assert engines["other"].command == (str(tmp_path / "venv" / "bin" / "python"),)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[a]\n", "`adapter`"),
        ('[a]\nadapter = "adapter.py"\nthread = 1\n', "`thread`"),
        ('[a]\nadapter = "adapter.py"\nthreads = "two"\n', "threads"),
        ('[a]\nadapter = "adapter.py"\nmemory_gb = -1\n', "memory_gb"),
        ('[a]\nadapter = "adapter.py"\ndevice = "tpu"\n', "device"),
        ('["A b"]\nadapter = "adapter.py"\n', "regex"),
        ('[a]\nadapter = "none.py"\n', "a: adapter: there is no file"),
        ('[a]\nadapter = "no-such-engine"\n', "a: adapter: there is no file"),
        ('[a]\nadapter = "adapter.py"\npython = "venv"\n', "a: python: there is no"),
        ('[a]\nadapter = "adapter.py"\npython = "x"\ncommand = ["y"]\n', "exclude each other"),
        ("[a\n", "TOML"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert told in caught.value.message
    assert "\n" not in caught.value.message


def test_claims_are_added_up_per_device() -> None:
    engines = [
        config("one", device="cuda", memory_gb=10),
        config("two", device="cuda:0", memory_gb=9),
        config("three", device="cuda:1", memory_gb=23),
        config("four", device="cpu"),
    ]
    check_memory(engines, {"cuda:0": 19.0, "cuda:1": 24.0, "cpu": 0.5}.__getitem__)
    with pytest.raises(ConfigError) as caught:
        check_memory(engines, {"cuda:0": 18.9, "cuda:1": 24.0}.__getitem__)
    assert caught.value.message == ("memory_gb: the engines claim 19 GB of cuda:0 (one 10 + two 9), it has 18.9 GB.")


def test_an_engine_that_claims_more_than_there_is_does_not_start() -> None:
    with pytest.raises(ConfigError, match="claim 1e"):
        load_remote(config(memory_gb=1e9), Settings(), None)


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="no cuda:99"):
        load_remote(config(device="cuda:99", memory_gb=1), Settings(), None)
