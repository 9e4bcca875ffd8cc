"""The curve of every fade."""

from __future__ import annotations

import numpy as np

from echo.types import Audio


def rising(length: int) -> Audio:
    """Half a raised cosine, from exactly 0 up to nearly 1; backwards it fades out and ends on 0."""
    curve: Audio = (0.5 - 0.5 * np.cos(np.pi / max(1, length) * np.arange(length))).astype(np.float32)
    return curve
