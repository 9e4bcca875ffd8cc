"""Text to model input: the reference normalisation, and bytes as token ids."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

#: Begin-of-sequence id; the padding id is the same.
BOS_ID = 0
#: The tag that every text begins with unless it brings its own.
DEFAULT_TAG = "[S1]"

# The reference's replacements, in its order. It never replaces the opening quotes U+201C and U+2018.
_REPLACEMENTS = (
    ("…", "..."),
    ("’", "'"),
    ("”", '"'),
    ("\n", " "),
    (":", ","),
    (";", ","),
    ("—", ", "),
)


def tag_untagged(text: str) -> str:
    """Put the default speaker tag before a text that neither opens with a bracket nor mentions S1 or S2."""
    if text.startswith(("[", "(")) or "S1" in text or "S2" in text:
        return text
    return f"{DEFAULT_TAG} {text}"


def normalize(text: str) -> str:
    """Apply the reference tokenizer's normalisation; an empty text becomes ``"[S1] "``, nothing is stripped."""
    for old, new in _REPLACEMENTS:
        text = text.replace(old, new)
    return tag_untagged(text)


def encode(text: str, *, normalized: bool = True) -> list[int]:
    """Turn a text into token ids: BOS, then its UTF-8 bytes.

    ``normalized`` False leaves out :func:`normalize`. Half surrogate pairs, which JSON can smuggle in, have no UTF-8
    form and are dropped.
    """
    if normalized:
        text = normalize(text)
    return [BOS_ID, *text.encode("utf-8", errors="ignore")]


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
