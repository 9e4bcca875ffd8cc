"""Chooses the attention heads of a checkpoint that follow the text, and writes them beside its weights.

python -m train.evaluation.heads runs/train-tiny/model

Times of words come from them. The server does the same for a checkpoint without the file, and keeps what it finds in
its cache; a file in the model's folder spares every user that.
"""

from __future__ import annotations

import argparse
import sys

import torch
from tqdm import tqdm

from echo.engines.load import load_weights
from echo.errors import LoadError
from echo.model.files.heads import HEADS_FILE
from echo.sources import TINY_MODEL
from train.evaluation.systems import Checkpoint
from train.tiny.export import write_heads_of


def main() -> None:
    """Choose from the command line."""
    options = argparse.ArgumentParser(
        prog="python -m train.evaluation.heads",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("checkpoint", nargs="?", default=TINY_MODEL, help="a model folder; default: the shipped one")
    options.add_argument("--device", default="cpu")
    given = options.parse_args()
    torch.set_num_threads(1)
    try:
        loaded = load_weights(Checkpoint.named(given.checkpoint).settings(given.device))
    except LoadError as error:
        sys.exit(str(error))
    found = write_heads_of(loaded)
    for (layer, head), share in zip(found.heads, found.shares, strict=True):
        tqdm.write(f"layer {layer}, head {head}: {share:.2f} of its attention follows the text", file=sys.stdout)
    assert loaded.weights is not None
    tqdm.write(f"{len(found.heads)} heads are in {loaded.weights.parent / HEADS_FILE}", file=sys.stdout)


if __name__ == "__main__":
    main()
