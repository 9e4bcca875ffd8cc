"""What is judged: audio, wherever it comes from, and what its maker said of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import soxr

from echo.types import SAMPLE_RATE, Audio
from train.tiny.corpus import RATE, Recording


@dataclass(frozen=True, eq=False)
class Heard:
    """Mono audio at 44.1 kHz.

    ``borders`` are the positions in samples where one generated block meets the next. ``ended`` is False where the
    generation ran into its limit before it found the end of the speech; None where nothing was generated.
    """

    samples: Audio
    borders: tuple[int, ...] = ()
    ended: bool | None = None

    @cached_property
    def at_corpus_rate(self) -> Audio:
        """The same at the corpus's rate, 22.05 kHz."""
        return resampled(self.samples, SAMPLE_RATE, RATE)


def of_teacher(recording: Recording) -> Heard:
    """The teacher itself."""
    return Heard(upsampled(recording))


def upsampled(recording: Recording) -> Audio:
    """A recording at 44.1 kHz."""
    return resampled(recording.samples, RATE, SAMPLE_RATE)


def resampled(samples: Audio, rate: int, wanted: int) -> Audio:
    """Mono audio at another rate, float32."""
    return samples if rate == wanted else np.asarray(soxr.resample(samples, rate, wanted), np.float32)
