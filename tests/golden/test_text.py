"""Tokenizer against the reference implementation: exact ids, masks and normalised text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from echo.text.tokenize import encode, normalize
from tests.reference.tokenize import encode_batch

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "text.json").read_text())


@pytest.mark.parametrize("case", VECTORS["tokenizer"], ids=lambda case: repr(case["text"][:24]))
def test_tokenizer_gives_the_reference_ids(case: dict[str, Any]) -> None:
    assert normalize(case["text"]) == case["normalized"]
    assert encode(case["text"]) == case["ids"]
    assert encode(case["text"], normalized=False)[1:] == case["ids_raw_no_bos_no_norm"]


@pytest.mark.parametrize("width", list(VECTORS["batches"]["by_max_length"]))
def test_batches_are_padded_and_cut_like_the_reference(width: str) -> None:
    expected = VECTORS["batches"]["by_max_length"][width]
    ids, mask = encode_batch(VECTORS["batches"]["texts"], None if width == "None" else int(width))
    assert ids.dtype == np.int32
    assert mask.dtype == np.bool_
    assert list(ids.shape) == list(mask.shape) == expected["shape"]
    assert mask.sum(axis=1).tolist() == expected["mask_sum"]
    assert not ids[~mask].any()
    for row, text in enumerate(VECTORS["batches"]["texts"]):
        used = expected["mask_sum"][row]
        assert ids[row, :used].tolist() == encode(text)[:used]
        assert mask[row, :used].all()
    if expected["ids"] is not None:
        assert ids.tolist() == expected["ids"]


def test_half_surrogate_pairs_cannot_break_the_encoder() -> None:
    assert encode("[S1] a\ud83dz") == encode("[S1] az")


def test_an_empty_batch_has_no_rows() -> None:
    ids, mask = encode_batch([])
    assert ids.shape == mask.shape == (0, 0)
