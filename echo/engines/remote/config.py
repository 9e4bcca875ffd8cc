"""engines.toml: the engines that run in child processes, a table each; and whether their memory fits."""

from __future__ import annotations

import sys
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import msgspec

from echo.engines.remote.recipes import RECIPES
from echo.errors import ConfigError

#: What runs in the engine's environment.
CHILD = Path(__file__).resolve().parents[3] / "engines" / "child.py"

#: In an environment that ``python -m echo engines install`` has made: the engine's table.
INSTALLED = "engine.toml"

_NAME = r"^[a-z0-9][a-z0-9._-]*$"
_Positive = Annotated[float, msgspec.Meta(ge=0)]


class EngineTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One engine.

    adapter      file of the adapter; a bare name is a file of the server's own folder ``engines``
    python       a virtual environment, or the interpreter in it; empty: the server's own
    command      instead of ``python``: the command that runs a Python program
    model        weights, as the adapter understands it: a folder or a name on the hub
    device       where the engine computes, such as ``cpu`` or ``cuda:1``
    dtype        number format, as the adapter understands it
    threads      for its computations on a CPU; 0: its libraries decide
    memory_gb    of the device that the engine claims, in GB of 2^30 bytes; 0: it makes no claim
    idle_stop_s  the process ends after so many seconds without work and starts again with the next; 0: it stays
    options      of the adapter
    """

    adapter: str
    python: str = ""
    command: tuple[str, ...] = ()
    model: str = ""
    device: Annotated[str, msgspec.Meta(pattern=r"^(cpu|mps|cuda(:[0-9]{1,3})?)$")] = "cpu"
    dtype: str = ""
    threads: Annotated[int, msgspec.Meta(ge=0, le=1024)] = 0
    memory_gb: _Positive = 0.0
    idle_stop_s: _Positive = 0.0
    options: dict[str, Any] = {}


class RemoteConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One engine, its files found: the command up to the interpreter's own options, and the adapter's path."""

    name: str
    table: EngineTable
    command: tuple[str, ...]
    adapter: Path


def read_engines(path: Path, installed: Path | None = None) -> dict[str, RemoteConfig]:
    """Read engines.toml, and the tables of the engines in ``installed``; a table of the file replaces one of those.

    Without file and folder there are none. Relative paths start at the file's folder. Raises ConfigError naming table
    and key.
    """
    found = _installed(installed) if installed is not None else {}
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return found
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"ECHO_ENGINES_FILE={path}: the file cannot be read as TOML: {error}.") from error
    try:
        named = msgspec.convert(tables, dict[Annotated[str, msgspec.Meta(pattern=_NAME)], EngineTable])
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {_where(tables, str(error))}.") from error
    return found | {name: _resolve(name, table, path.parent) for name, table in named.items()}


def _installed(folder: Path) -> dict[str, RemoteConfig]:
    found = {}
    for file in sorted(folder.glob(f"*/{INSTALLED}")):
        table = msgspec.toml.decode(file.read_bytes(), type=EngineTable)
        model = str((file.parent / table.model).absolute()) if table.model else ""
        name = file.parent.name
        found[name] = _resolve(name, msgspec.structs.replace(table, model=model), file.parent)
    return found


def check_memory(engines: Iterable[RemoteConfig], capacity_gb: Callable[[str], float]) -> None:
    """Add up what engines claim of each device; raises ConfigError where it is more than ``capacity_gb(device)``."""
    claims: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for engine in engines:
        device = engine.table.device
        claims["cuda:0" if device == "cuda" else device][engine.name] = engine.table.memory_gb
    for device, by_name in claims.items():
        total = sum(by_name.values())
        if total and total > (most := capacity_gb(device)):
            parts = " + ".join(f"{name} {claim:g}" for name, claim in by_name.items())
            raise ConfigError(f"memory_gb: the engines claim {total:g} GB of {device} ({parts}), it has {most:.1f} GB.")


def _resolve(name: str, table: EngineTable, folder: Path) -> RemoteConfig:
    if table.command and table.python:
        raise ConfigError(f"engines.toml: {name}: python and command exclude each other.")
    if table.adapter.endswith(".py"):
        adapter = (folder / Path(table.adapter).expanduser()).absolute()
    else:
        adapter = CHILD.parent / f"{table.adapter}.py"
    if not CHILD.is_file():
        raise ConfigError(f"engines.toml: {name}: there is no {CHILD}; the installation is not complete.")
    if not adapter.is_file():
        raise ConfigError(f"engines.toml: {name}: adapter: there is no file {adapter}.")
    return RemoteConfig(
        name=name, table=table, command=table.command or (str(_interpreter(name, table, folder)),), adapter=adapter
    )


def _interpreter(name: str, table: EngineTable, folder: Path) -> Path:
    if not table.python:
        return Path(sys.executable)
    path = (folder / Path(table.python).expanduser()).absolute()  # not resolved: an environment's is a link
    path = path / "bin" / "python" if path.is_dir() else path
    if not path.is_file():
        raise ConfigError(
            f"engines.toml: {name}: python: there is no {path}; make the engine's environment first{_command(table)}."
        )
    return path


def _command(table: EngineTable) -> str:
    return f": python -m echo engines install {table.adapter}" if table.adapter in RECIPES else ""


def _where(tables: dict[str, Any], message: str) -> str:
    """Replace the dots that msgspec writes for a key of a mapping by the names of the tables that there are."""
    return message.replace("$[...]", f"a table ({', '.join(tables)})")
