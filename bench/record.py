"""What all benchmarks share: command-line options, result files, and figures as text."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from bench import RESULTS, ROOT
from echo.engines.load import pick_dtype
from echo.settings import Settings, describe, load_settings

Record = Mapping[str, Any]

#: Settings that change a figure; result files hold no others.
_RECORDED_SETTINGS = (
    "ECHO_FISH_DTYPE",
    "ECHO_COMPILE",
    "ECHO_COMPILE_AE",
    "ECHO_CPU_THREADS",
    "ECHO_PERFORMANCE_PRESET",
    "ECHO_MAX_CONCURRENT",
    "ECHO_MAX_QUEUE",
    "ECHO_VAD_REROLL_ENABLED",
)


# -- options


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the shared options."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--model", default="tiny", help="tiny, random-base, random-tiny, a hub repository or a local folder"
    )
    made.add_argument("--device", default="auto", help="auto, cuda, cuda:1, mps or cpu")
    made.add_argument("--dtype", help="float32, bfloat16 or float16; default: as the server chooses")
    made.add_argument("--decoder-dtype", help="the same for the decoder")
    made.add_argument("--preset", help="sampler preset")
    made.add_argument("--threads", type=int, help="threads of the model on a CPU")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the result to FILE")
    made.add_argument(
        "--keep", type=Path, nargs="?", const=RESULTS, metavar="FOLDER", help="write it to bench/results, or FOLDER"
    )
    return made


def settings_from(given: argparse.Namespace, **overrides: Any) -> Settings:
    """Return the server's settings for these options; the environment fills in the rest. Raises ConfigError."""
    return load_settings(
        model_repo=given.model,
        device=given.device,
        model_dtype=given.dtype,
        fish_dtype=given.decoder_dtype,
        performance_preset=given.preset,
        cpu_threads=given.threads,
        **overrides,
    )


def save(records: Sequence[Record], given: argparse.Namespace, suffix: str = "") -> None:
    """Write records to where ``--json`` or ``--keep`` says, if either is given.

    ``--keep`` makes a file for each, named after benchmark, model and device, plus ``suffix``. ``--json`` makes one
    file: the record, or a list of several.
    """
    if given.keep is not None:
        for record in records:
            name = f"{record['bench']}-{Path(given.model).name}-{record['device_type']}{suffix}.json"
            write_record(given.keep / name, record)
    elif given.json is not None:
        write_record(given.json, records[0] if len(records) == 1 else records)


# -- result files


def make_record(bench: str, settings: Settings, device: torch.device, results: Record | None = None) -> dict[str, Any]:
    """Return the content of a result file. Call it before measuring: it notes the time and how busy the machine is."""
    return {
        "bench": bench,
        "model": Path(settings.model_repo).name,
        "device_type": device.type,
        "dtype": str(pick_dtype(settings.model_dtype, device)).removeprefix("torch."),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **commit(),
        "command": shlex.join(["python", "-m", f"bench.{Path(sys.argv[0]).stem}", *map(_portable, sys.argv[1:])]),
        "environment": environment(device),
        "settings": _recorded_settings(settings),
        "results": dict(results or {}),
    }


def write_record(path: Path, record: Record | Sequence[Record]) -> None:
    """Write a result file, its folder included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_records(folder: Path) -> list[Record]:
    """Read all result files of a folder, in the order of their names."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


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


def _recorded_settings(settings: Settings) -> dict[str, str]:
    lines = (line.partition("=") for line in describe(settings))
    return {name: value for name, _, value in lines if name in _RECORDED_SETTINGS}


def _portable(argument: str) -> str:
    """An argument without this machine's folders: paths in the checkout from its root, others by their name."""
    path = Path(argument)
    if not path.is_absolute():
        return argument
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


# -- text


def number(value: object) -> str:
    """Format a value with three significant digits; None is a dash."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


def duration(seconds: float | None) -> str:
    """Format seconds; below one second as milliseconds."""
    if seconds is None:
        return "–"
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def columns(rows: Sequence[Record]) -> str:
    """Format rows with the same keys as an aligned table for the terminal."""
    if not rows:
        return "(nothing)"
    names = list(rows[0])
    lines = [names, *([number(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(names))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def markdown(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Format a markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(number(cell) for cell in line)} |" for line in lines)
