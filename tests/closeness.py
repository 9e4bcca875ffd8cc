"""What it takes for two tensors to be close."""

from __future__ import annotations

import torch
from torch import Tensor


def assert_close(actual: Tensor, expected: Tensor, *, rtol: float = 1.3e-6, atol: float = 1e-5) -> None:
    """Check the shape, the dtype and each number, with torch's own tolerances for float32 unless others are given.

    ``torch.testing.assert_close`` imports torch's distributed tensors first, which takes seconds in every process.
    """
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
    far = ~torch.isclose(actual, expected, rtol=rtol, atol=atol)
    assert not far.any(), f"{int(far.sum())} of {far.numel()} differ, by up to {(actual - expected).abs().max()}"
