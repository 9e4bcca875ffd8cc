"""Clicks: is the wave rougher where two generated blocks meet than anywhere else?"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from echo.types import SAMPLE_RATE
from train.evaluation.heard import Heard
from train.evaluation.measure import CLICK_THRESHOLD, click_scores

Scores = npt.NDArray[np.float64]

#: A border is looked at this far to both sides.
_REACH_S = 0.002


def scores(heard: Heard) -> tuple[Scores, Scores]:
    """Highest click score around every border, and in every equally long stretch elsewhere."""
    reach = round(_REACH_S * SAMPLE_RATE)
    found = click_scores(heard.samples, SAMPLE_RATE)
    whole = len(found) // (2 * reach)
    elsewhere = found[: whole * 2 * reach].reshape(whole, 2 * reach).max(1, initial=0.0)
    around = [found[max(0, border - reach) : border + reach] for border in heard.borders]
    keep = np.ones(whole, bool)
    for border in heard.borders:
        keep[max(0, (border - reach) // (2 * reach)) : (border + reach) // (2 * reach) + 1] = False
    return np.asarray([stretch.max(initial=0.0) for stretch in around]), elsewhere[keep]


def audible(found: Scores) -> int:
    """How many of the places click."""
    return int((found > CLICK_THRESHOLD).sum())
