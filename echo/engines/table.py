"""The engines by name, of which ``ECHO_ENGINES`` or ``ECHO_ENGINE`` choose.

Other packages add theirs by an entry point, engines.toml those that run in child processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import EntryPoint, entry_points

from echo.engines.base import Engine
from echo.engines.remote.config import RemoteConfig
from echo.engines.remote.recipes import RECIPES
from echo.errors import ConfigError
from echo.settings import Settings
from echo.vad import SilenceGate

EngineLoader = Callable[[Settings, SilenceGate | None], Engine]
"""Loads an engine; blocks. The gate, if there is one, rejects blocks with a long silence; an engine may ignore it."""

#: Entry point group of engines: ``name = "module:loader"``, with an EngineLoader.
GROUP = "echo_tts.engines"

_BUILT_IN = (EntryPoint("echo", "echo.engines.load:load_engine", GROUP),)


def find_engines(
    names: Sequence[str], remote: Mapping[str, RemoteConfig] | None = None, setting: str = "ECHO_ENGINE"
) -> list[EngineLoader]:
    """Return the engines' loaders, each of which imports its engine when called; raises ConfigError.

    remote   the engines of engines.toml; one with the name of another engine is refused
    setting  where the names come from
    """
    table = {entry.name: entry for entry in (*entry_points(group=GROUP), *_BUILT_IN)}
    remote = remote or {}
    if taken := sorted(table.keys() & remote.keys()):
        raise ConfigError(f"engines.toml: {taken[0]}: another engine has this name.")
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"{setting}: {twice[0]} is named twice.")
    if unknown := [name for name in names if name not in table and name not in remote]:
        known = ", ".join(sorted([*table, *remote]))
        hint = f" Install it: python -m echo engines install {unknown[0]}." if unknown[0] in RECIPES else ""
        raise ConfigError(f"{setting}={unknown[0]}: no such engine; there are {known}.{hint}")
    together = [remote[name] for name in names if name in remote]
    return [
        partial(_load_remote, remote[name], together) if name in remote else partial(_load, table[name])
        for name in names
    ]


def _load(entry: EntryPoint, settings: Settings, gate: SilenceGate | None) -> Engine:
    engine: Engine = entry.load()(settings, gate)
    return engine


def _load_remote(
    config: RemoteConfig, together: Sequence[RemoteConfig], settings: Settings, gate: SilenceGate | None
) -> Engine:
    from echo.engines.remote.load import load_remote  # imports torch, which takes seconds

    return load_remote(config, settings, gate, together)
