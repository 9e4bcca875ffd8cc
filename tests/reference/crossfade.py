"""The serverless worker's joining of finished chunks, all at once."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from echo.audio.crossfade import CrossfadeJoiner, CrossfadeRules
from echo.types import Audio


def join_chunks(chunks: Iterable[Audio], rules: CrossfadeRules | None = None) -> Audio:
    """Join finished chunks at one rate, each [n], into one clip."""
    joiner = CrossfadeJoiner(rules)
    return np.concatenate([*(joiner.push(chunk) for chunk in chunks), joiner.finish()])
