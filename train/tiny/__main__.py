"""``python -m train.tiny``: from nothing to a model folder, stage by stage; what is done is not done again."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from train.tiny import config
from train.tiny.budget import Budget
from train.tiny.stages import STAGES, Run


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and run the stages."""
    options = _parser().parse_args(arguments)
    stages = options.only or list(STAGES)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device if options.device != "auto" else _best_device())
    chosen = config.load(options.config)
    both = {"codec", "dit"} <= set(stages)
    budgets = share_out(chosen, options.minutes, stages, device)
    run = Run(chosen, device, budgets)
    for stage in STAGES:
        if stage in stages and not (both and device.type == "cpu" and stage in {"codec", "dit"}):
            run.stage(stage)
        elif stage == "codec" and both:
            _side_by_side(options, budgets["dit"])


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
    """Train codec and DiT in one process with one thread each; neither gains much from a second."""
    command = [sys.executable, "-m", "train.tiny", "--config", str(options.config), "--device", "cpu"]
    command += ["--minutes", str(budget.minutes), "--threads", "1", "--only"]
    children = {stage: subprocess.Popen([*command, stage]) for stage in ("codec", "dit")}
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
    parser.add_argument(
        "--minutes",
        type=float,
        default=100.0,
        help="minutes of training over all runs; speech, latents and evaluation come on top (default: 100)",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=0, help="threads of the numerical library; 0 = its own choice")
    parser.add_argument(
        "--only", type=_stages, default=None, metavar="STAGE,...", help=f"some of {', '.join(STAGES)} (default: all)"
    )
    return parser


def _stages(value: str) -> list[str]:
    names = value.split(",")
    if unknown := [name for name in names if name not in STAGES]:
        raise argparse.ArgumentTypeError(f"no stage is called {', '.join(unknown)}; there are {', '.join(STAGES)}")
    return names


def _best_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


if __name__ == "__main__":
    main()
