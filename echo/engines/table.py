"""The engines by name, of which ``ECHO_ENGINE`` chooses one.

Other packages add theirs by an entry point, engines.toml those that run in child processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points

from echo.engines.base import Engine
from echo.engines.remote.config import RemoteConfig
from echo.errors import ConfigError
from echo.settings import Settings
from echo.vad import SilenceGate

EngineLoader = Callable[[Settings, SilenceGate | None], Engine]
"""Loads an engine; blocks. The gate, if there is one, rejects blocks with a long silence; an engine may ignore it."""

#: Entry point group of engines: ``name = "module:loader"``, with an EngineLoader.
GROUP = "echo_tts.engines"

_BUILT_IN = (EntryPoint("echo", "echo.engines.load:load_engine", GROUP),)


def find_engine(name: str, remote: Mapping[str, RemoteConfig] | None = None) -> EngineLoader:
    """Return an engine's loader, which imports the engine when called; raises ConfigError for an unknown name.

    remote  the engines of engines.toml; one with the name of another engine is refused
    """
    table = {entry.name: entry for entry in (*entry_points(group=GROUP), *_BUILT_IN)}
    remote = remote or {}
    if taken := sorted(table.keys() & remote.keys()):
        raise ConfigError(f"engines.toml: {taken[0]}: another engine has this name.")
    if name in remote:
        return lambda settings, gate: _load_remote(remote[name], settings, gate)
    if name not in table:
        known = ", ".join(sorted([*table, *remote]))
        raise ConfigError(f"ECHO_ENGINE={name}: no such engine; there are {known}.")
    return lambda settings, gate: table[name].load()(settings, gate)


def _load_remote(config: RemoteConfig, settings: Settings, gate: SilenceGate | None) -> Engine:
    from echo.engines.remote.load import load_remote  # imports torch, which takes seconds

    return load_remote(config, settings, gate)
