"""Duration and end of speech."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from echo.audio.measure import silence_threshold, window_levels
from echo.types import SAMPLE_RATE, Audio
from train.evaluation.heard import Heard
from train.evaluation.measure import rms, speech_span
from train.tiny.corpus import RATE

#: Speech that is still this loud in the last 10 ms was cut off, in parts of its loudest 10 ms (-30 dB).
_CUT_OFF = 10 ** (-30 / 20)
_LAST_S = 0.01


@dataclass(frozen=True, slots=True)
class Ending:
    """How an utterance ended.

    ``silence_s`` follows the last sound. ``found`` is False where the generation ran into its limit.
    """

    found: bool
    cut_off: bool
    silence_s: float


def relative_error(heard: Audio, teacher: Audio) -> float | None:
    """How much longer (+) or shorter (-) the speech is than the teacher's, edges of silence aside; None for silence."""
    spans = [speech_span(samples, RATE) for samples in (heard, teacher)]
    if spans[0] is None or spans[1] is None:
        return None
    lengths = [end - start for start, end in (spans[0], spans[1])]
    return lengths[0] / lengths[1] - 1


def ending(heard: Heard) -> Ending:
    """Judge the end of a generated utterance."""
    levels = window_levels(heard.samples, SAMPLE_RATE)
    loudest = float(np.max(levels, initial=0.0))
    last = rms(heard.samples[-round(_LAST_S * SAMPLE_RATE) :])
    span = speech_span(heard.samples, SAMPLE_RATE)
    silence = len(heard.samples) / SAMPLE_RATE - (span[1] if span else 0.0)
    cut_off = last > max(_CUT_OFF * loudest, silence_threshold(loudest))
    return Ending(found=heard.ended is not False, cut_off=cut_off, silence_s=silence)
