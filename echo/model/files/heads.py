"""Which attention heads of a checkpoint tell where in the text its speech is: a small file beside the weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from echo.files import atomic_write
from echo.model.network.config import DiTConfig
from echo.model.network.watch import Heads

#: Its name in a model's folder.
HEADS_FILE = "alignment.json"

#: The fingerprint reads so many pieces of so many bytes, evenly spread: training changes every weight.
_PIECES, _PIECE = 256, 2**16


def fingerprint(weights: Path) -> str:
    """Sixteen hexadecimal digits that name a file of weights, by its length and 16 MB of its bytes."""
    size = weights.stat().st_size
    hashed = hashlib.sha256(str(size).encode())
    with weights.open("rb") as file:
        for number in range(_PIECES):
            file.seek(max(0, (size - _PIECE) * number // (_PIECES - 1)))
            hashed.update(file.read(_PIECE))
    return hashed.hexdigest()[:16]


def read_heads(files: Iterable[Path], weights: str, config: DiTConfig) -> Heads | None:
    """Return the heads from the first of the files that is for these weights; None where there is none.

    A file that is missing, damaged, or for other weights counts for nothing. No heads at all is an answer, too: a
    search has found that none of them follows the text.
    """
    for path in files:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            heads = tuple((int(layer), int(head)) for layer, head in found["heads"])
            same = found["weights"] == weights
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if same and all(0 <= layer < config.num_layers and 0 <= head < config.num_heads for layer, head in heads):
            return heads
    return None


def write_heads(path: Path, weights: str, heads: Heads, shares: Iterable[float]) -> None:
    """Write the heads of the weights with this fingerprint, and the share of each one's attention near its path.

    Raises OSError.
    """
    record = {
        "weights": weights,
        "heads": [list(head) for head in heads],
        "shares": [round(share, 3) for share in shares],
    }
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(record) + "\n", encoding="utf-8")
