"""Which commit ran, on which machine. Needs torch only."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from bench import ROOT


def commit() -> dict[str, Any]:
    """Return the checked-out commit, and whether anything but results differs from it."""
    head = _git("rev-parse", "--short=12", "HEAD")
    return {"commit": head or "unknown", "dirty": bool(_git("status", "--porcelain", "--", ".", ":!bench/results"))}


def environment(device: torch.device) -> dict[str, Any]:
    """Return device, processor, versions, and the load average."""
    return {
        "device": _device_name(device),
        "cpu": _cpu_model(),
        "cpu_cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        **load_average(),
    }


def load_average() -> dict[str, float]:
    """Return the load average of the last minute; empty where the system has none."""
    return {"load_1min": round(os.getloadavg()[0], 2)} if hasattr(os, "getloadavg") else {}


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} (CUDA {torch.version.cuda})"
    return _cpu_model() if device.type == "cpu" else device.type


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:  # no git on this machine
        return ""
    return done.stdout.strip()
