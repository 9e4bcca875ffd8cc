"""The options that all benchmarks share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bench import RESULTS
from echo.settings import Settings, load_settings


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the shared options."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--model", default="tiny", help="tiny, random-base, random-tiny, a hub repository or a local folder"
    )
    made.add_argument("--device", default="auto", help="auto, cuda, cuda:1, mps or cpu")
    made.add_argument("--dtype", help="float32, bfloat16 or float16; default: as the server chooses")
    made.add_argument("--decoder-dtype", help="the same for the decoder")
    made.add_argument("--preset", help="sampler preset")
    made.add_argument("--voice-seconds", type=float, help="reference clip of this length; default: the server's voice")
    made.add_argument("--threads", type=int, help="threads of the model on a CPU")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the result to FILE")
    made.add_argument(
        "--keep", type=Path, nargs="?", const=RESULTS, metavar="FOLDER", help="write it to bench/results, or FOLDER"
    )
    return made


def settings_from(given: argparse.Namespace, **overrides: Any) -> Settings:
    """The server's settings for these options; the environment fills in the rest. Raises ConfigError."""
    return load_settings(
        model_repo=given.model,
        device=given.device,
        model_dtype=given.dtype,
        fish_dtype=given.decoder_dtype,
        performance_preset=given.preset,
        cpu_threads=given.threads,
        **overrides,
    )


def result_path(given: argparse.Namespace, bench: str, device_type: str, suffix: str = "") -> Path | None:
    """Where the result goes, if anywhere."""
    if given.keep is not None:
        folder: Path = given.keep
        return folder / f"{bench}-{Path(given.model).name}-{device_type}{suffix}.json"
    path: Path | None = given.json
    return path
