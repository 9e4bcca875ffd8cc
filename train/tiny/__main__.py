"""``python -m train.tiny``: from nothing to a model folder, stage by stage; what is done is not done again."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from echo.errors import ConfigError, LoadError
from train.tiny import config
from train.tiny.budget import Budget
from train.tiny.stages import HALVES, ORDER, STAGES, Run
from train.tiny.teacher.library import TeacherMissing


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and run the stages; what a user can mend ends it with one sentence."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("argument --device: torch finds no CUDA device here; leave it out to train on the CPU")
    try:
        _run(options)
    except (ConfigError, LoadError, TeacherMissing, FileNotFoundError) as error:
        raise SystemExit(str(error)) from error


def _run(options: argparse.Namespace) -> None:
    stages = options.only or list(STAGES)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device if options.device != "auto" else _best_device())
    chosen = config.load(options.config)
    if options.from_nothing:
        chosen = config.from_nothing(chosen)
    if options.work is not None:
        chosen = replace(chosen, run=replace(chosen.run, work=str(options.work)))
    if options.from_nothing and (begun := _begun_from(Path(chosen.run.work))):
        raise SystemExit(f"The run in {chosen.run.work} was begun from {begun}; give another folder with --work.")
    both = {"codec", "dit"} <= set(stages)
    budgets = share_out(chosen, options.minutes, stages, device)
    if options.steps:
        budgets = {name: Budget(steps=options.steps) for name in budgets}
    run = Run(chosen, device, budgets)
    for stage in ORDER:
        if stage in stages and not (both and device.type == "cpu" and stage in {"codec", "dit"}):
            run.stage(stage)
        elif stage == "codec" and both:
            _side_by_side(options, budgets["dit"])


def _begun_from(work: Path) -> str:
    """The model that a run which is there started from; empty where it did from none, or is not there."""
    for options in (work / "dit" / "options.json", work / "codec" / "options.json"):
        if options.exists() and (source := json.loads(options.read_text(encoding="utf-8")).get("start_from")):
            return str(source)
    return ""


def share_out(
    chosen: config.TinyConfig, minutes: float, stages: Sequence[str], device: torch.device
) -> dict[str, Budget]:
    """Budgets of the stages that train: some minutes at the end for polishing, the others for codec and DiT.

    On a CPU codec and DiT have a core each, so both have all of these; and a stage that is run alone has them, too.
    """
    last = minutes * chosen.codec.polish_share if "polish" in stages else 0.0
    codec = dit = minutes - last
    alone = len({"codec", "dit"} & set(stages)) == 1
    if device.type != "cpu" and not alone:
        codec, dit = codec * chosen.run.codec_share, dit * (1 - chosen.run.codec_share)
    polish = codec * (1 - chosen.codec.encoder_share) + last
    return {"codec": Budget(minutes=codec), "dit": Budget(minutes=dit), "polish": Budget(minutes=polish)}


def _side_by_side(options: argparse.Namespace, budget: Budget) -> None:
    """Train codec and DiT in processes of their own with one thread each, their bars below one another."""
    command = [sys.executable, "-m", "train.tiny", "--config", str(options.config), "--device", "cpu"]
    command += ["--from-nothing"] if options.from_nothing else []
    command += ["--work", str(options.work)] if options.work is not None else []
    length = ["--steps", str(budget.steps)] if budget.steps else ["--minutes", str(budget.minutes)]
    command += [*length, "--threads", "1", "--only"]
    children = {
        stage: subprocess.Popen([*command, stage], env={**os.environ, "TQDM_POSITION": str(line)})
        for line, stage in enumerate(("codec", "dit"))
    }
    try:
        failed = [stage for stage, child in children.items() if child.wait() != 0]
    finally:
        for child in children.values():
            child.terminate()
    if failed:
        raise SystemExit(f"{' and '.join(failed)} failed; started again, training goes on from the last checkpoint.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m train.tiny", description=__doc__)
    parser.add_argument("--config", type=Path, default=config.DEFAULT, help="TOML file with all choices")
    parser.add_argument("--work", type=Path, help="folder of the run; default: the config's")
    parser.add_argument(
        "--from-nothing",
        action="store_true",
        help="begin with random weights, whatever the config continues from; takes several times as many minutes",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=100.0,
        help="minutes of training over all runs; speech, latents and evaluation come on top (default: 100)",
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=0,
        help="steps of every stage that trains, instead of minutes: for a machine that does other things, too",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=0, help="threads of the numerical library; 0 = its own choice")
    parser.add_argument(
        "--only",
        type=_stages,
        default=None,
        metavar="STAGE,...",
        help=f"some of {', '.join(STAGES)} (default: all of these), or {' or '.join(HALVES)} for a half of the codec",
    )
    return parser


def _stages(value: str) -> list[str]:
    names = value.split(",")
    if unknown := [name for name in names if name not in (*STAGES, *HALVES)]:
        raise argparse.ArgumentTypeError(f"no stage is called {', '.join(unknown)}; there are {', '.join(STAGES)}")
    return names


def _best_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


if __name__ == "__main__":
    main()
