"""How far captured graphs may be from what they were captured of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def relative_deviation(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest RMS difference of a pair, relative to the expected RMS; NaN where one of them is."""
    pairs = [(a.double(), b.double()) for a, b in zip(found, expected, strict=True)]
    # Not Python's ``max``, which passes over what is no number.
    return float(torch.stack([(a - b).square().mean().sqrt() / b.square().mean().sqrt() for a, b in pairs]).max())
