"""A table of engines.toml -> a running engine, once it is clear that its memory fits."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import torch

from echo.engines.remote.config import RemoteConfig, check_memory
from echo.engines.remote.engine import RemoteEngine
from echo.engines.remote.health import RemoteRules
from echo.errors import ConfigError
from echo.settings import Settings, engine_environment
from echo.vad import SilenceGate

_GB = 2**30


def load_remote(
    config: RemoteConfig, settings: Settings, gate: SilenceGate | None, together: Sequence[RemoteConfig] = ()
) -> RemoteEngine:
    """Start an engine and wait until it is ready; raises ConfigError or LoadError.

    ``together`` are all engines of the server whose memory has to fit.

    Its speech is not checked for silences: an engine that streams by tokens could not take back what it has sent.
    """
    if sys.platform == "win32":
        raise ConfigError(f"{config.name}: engines in processes of their own need Linux or macOS.")
    check_memory(together or [config], device_memory_gb)
    rules = RemoteRules(
        idle_stop=config.table.idle_stop_s,
        stall=settings.device_timeout_s or RemoteRules().stall,
        patience=settings.max_queue_wait_s or RemoteRules().patience,
    )
    return RemoteEngine(config, rules=rules, environment=engine_environment())


def device_memory_gb(device: str) -> float:
    """Return the memory of a device, in GB of 2^30 bytes; raises ConfigError where it is not there."""
    if not device.startswith("cuda"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GB
    if not torch.cuda.is_available() or torch.device(device).index >= torch.cuda.device_count():
        raise ConfigError(f"device: this machine has no {device}.")
    return torch.cuda.get_device_properties(device).total_memory / _GB
