"""The engines by name, of which ``ECHO_ENGINE`` chooses one. Other packages add theirs by an entry point."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

from echo.engines.base import Engine
from echo.errors import ConfigError
from echo.settings import Settings
from echo.vad import SilenceGate

EngineLoader = Callable[[Settings, SilenceGate | None], Engine]
"""Loads an engine; blocks. The gate, if there is one, rejects blocks with a long silence; an engine may ignore it."""

#: Entry point group of engines: ``name = "module:loader"``, with an EngineLoader.
GROUP = "echo_tts.engines"

_BUILT_IN = (EntryPoint("echo", "echo.engines.load:load_engine", GROUP),)


def find_engine(name: str) -> EngineLoader:
    """Return an engine's loader, which imports the engine when called; raises ConfigError for an unknown name."""
    table = {entry.name: entry for entry in (*entry_points(group=GROUP), *_BUILT_IN)}
    if name not in table:
        raise ConfigError(f"ECHO_ENGINE={name}: no such engine; there are {', '.join(sorted(table))}.")
    return lambda settings, gate: table[name].load()(settings, gate)
