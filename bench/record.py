"""What every result file says of the run: where, when, from which commit, with which settings."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from bench import ROOT
from echo.engines.load import pick_dtype
from echo.settings import Settings, describe

#: Settings that change a figure; the others are left out of the files.
_SHOWN = (
    "ECHO_FISH_DTYPE",
    "ECHO_COMPILE",
    "ECHO_COMPILE_AE",
    "ECHO_CPU_THREADS",
    "ECHO_PERFORMANCE_PRESET",
    "ECHO_MAX_CONCURRENT",
    "ECHO_MAX_QUEUE",
    "ECHO_VAD_REROLL_ENABLED",
)


def _portable(argument: str) -> str:
    """An argument as it can be repeated anywhere: paths in the checkout from its root, others by their name."""
    path = Path(argument)
    if not path.is_absolute():
        return argument
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def make_record(bench: str, settings: Settings, device: torch.device, results: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a result file; the command line is the running process's."""
    return {
        "bench": bench,
        "model": Path(settings.model_repo).name,
        "device_type": device.type,
        "dtype": str(pick_dtype(settings.model_dtype, device)).removeprefix("torch."),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **commit(),
        "command": shlex.join(["python", "-m", f"bench.{Path(sys.argv[0]).stem}", *map(_portable, sys.argv[1:])]),
        "environment": environment(device),
        "settings": shown_settings(settings),
        "results": dict(results),
    }


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a result file, its folder included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def commit() -> dict[str, Any]:
    """The checked-out commit, and whether anything but results differs from it."""
    head = _git("rev-parse", "--short=12", "HEAD")
    return {"commit": head or "unknown", "dirty": bool(_git("status", "--porcelain", "--", ".", ":!bench/results"))}


def environment(device: torch.device) -> dict[str, Any]:
    """Device, processor, versions, and how busy the machine was before."""
    return {
        "device": device_name(device),
        "cpu": cpu_model(),
        "cpu_cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        **load_average(),
    }


def load_average() -> dict[str, float]:
    """Mean number of busy processes in the last minute, where the system tells."""
    return {"load_1min": round(os.getloadavg()[0], 2)} if hasattr(os, "getloadavg") else {}


def device_name(device: torch.device) -> str:
    """The device as its maker calls it."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} (CUDA {torch.version.cuda})"
    return cpu_model() if device.type == "cpu" else device.type


def cpu_model() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def shown_settings(settings: Settings) -> dict[str, str]:
    """The settings that change a figure, by variable."""
    lines = (line.partition("=") for line in describe(settings))
    return {name: value for name, _, value in lines if name in _SHOWN}


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()
