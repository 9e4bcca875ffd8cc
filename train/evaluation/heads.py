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
from echo.model.alignment import SENTENCES, search
from echo.model.autoencoder.speaker import run_to_end
from echo.model.files.heads import HEADS_FILE, fingerprint, write_heads
from echo.sources import TINY_MODEL
from echo.text.tokenize import DEFAULT_TAG, encode_sentence
from train.evaluation.systems import Checkpoint


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
    assert loaded.weights is not None
    tokens = [encode_sentence(sentence) for sentence in SENTENCES]
    found = run_to_end(search(loaded.dit, tokens, 1 + len(f"{DEFAULT_TAG} ")))
    path = loaded.weights.parent / HEADS_FILE
    write_heads(path, fingerprint(loaded.weights), found.heads, found.shares)
    for (layer, head), share in zip(found.heads, found.shares, strict=True):
        tqdm.write(f"layer {layer}, head {head}: {share:.2f} of its attention follows the text", file=sys.stdout)
    tqdm.write(f"{len(found.heads)} heads are in {path}", file=sys.stdout)


if __name__ == "__main__":
    main()
