"""Padded batches of token ids, as the reference implementation feeds them; the product encodes one text at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from echo.text.tokenize import BOS_ID, encode


def encode_batch(
    texts: Sequence[str], max_length: int | None = None, *, normalized: bool = True
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """Encode texts into one padded batch.

    Returns ``ids`` int32 and ``mask`` bool, both ``[texts, width]``; width is ``max_length``, or that of the longest
    text if None. Longer texts are cut; the mask is true on the used prefix, BOS included.
    """
    rows = [encode(text, normalized=normalized)[:max_length] for text in texts]
    width = max((len(row) for row in rows), default=0) if max_length is None else max_length
    ids = np.full((len(rows), width), BOS_ID, dtype=np.int32)
    mask = np.zeros((len(rows), width), dtype=np.bool_)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
        mask[index, : len(row)] = True
    return ids, mask
