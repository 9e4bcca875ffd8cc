"""Edit distance, and error rates with their uncertainty."""

from __future__ import annotations

from collections.abc import Sequence

import jiwer
import numpy as np


def edits(said: Sequence[str], heard: Sequence[str]) -> int:
    """Fewest insertions, deletions and substitutions that turn one sequence of words or phones into the other."""
    if not said:  # jiwer refuses to compare with nothing
        return len(heard)
    found = jiwer.process_words(" ".join(said), " ".join(heard))
    return found.substitutions + found.deletions + found.insertions


def rate(errors: Sequence[int], lengths: Sequence[int]) -> float | None:
    """All errors over all that was to be said; None when that is nothing."""
    total = sum(lengths)
    return sum(errors) / total if total else None


def uncertainty(errors: Sequence[int], lengths: Sequence[int], *, draws: int = 500, seed: int = 0) -> float | None:
    """Standard error of ``rate`` over the choice of utterances, by bootstrap; None for fewer than two."""
    if len(errors) < 2 or not sum(lengths):
        return None
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(errors), (draws, len(errors)))
    made, asked = np.asarray(errors, np.float64)[picks].sum(1), np.asarray(lengths, np.float64)[picks].sum(1)
    return float(np.std(made / np.maximum(asked, 1)))
