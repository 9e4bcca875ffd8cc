"""What all benchmarks share: command-line options and result files."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from bench import RESULTS, ROOT
from bench.machine import commit, environment
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


def _recorded_settings(settings: Settings) -> dict[str, str]:
    lines = (line.partition("=") for line in describe(settings))
    return {name: value for name, _, value in lines if name in _RECORDED_SETTINGS}


def _portable(argument: str) -> str:
    """An argument without this machine's folders: paths in the checkout from its root, others by their name."""
    path = Path(argument)
    if not path.is_absolute():
        return argument
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name
