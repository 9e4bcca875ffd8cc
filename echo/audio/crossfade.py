"""Joining finished chunks by equal pauses and a linear cross-fade: the rule of the serverless worker.

For interfaces that promise exactly that worker's result; :class:`~echo.audio.join.Joiner` is for everything else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from echo.types import SAMPLE_RATE, Audio

#: Below this a sample counts as silence.
_SILENT = 0.01
#: A cross-fade takes at most this share of the next chunk, and of everything before it.
_LARGEST_SHARE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossfadeRules:
    """Both in samples. ``overlap``: the longest cross-fade, 0 for none.

    ``silence``: to what the silence at the end of each chunk but the last is brought; None leaves it as it is.
    """

    overlap: int = SAMPLE_RATE // 10
    silence: int | None = SAMPLE_RATE // 2


class CrossfadeJoiner:
    """Joins chunks as they come; holds back only what may still change.

    ``push`` each chunk whole, or ``feed`` its parts and ``end_chunk`` it; ``finish`` after the last. The results,
    concatenated, are the same whatever the parts.
    """

    def __init__(self, rules: CrossfadeRules | None = None) -> None:
        self._rules = rules or CrossfadeRules()
        self._silence = self._rules.silence or 0
        self._held = np.zeros(0, np.float32)
        self._emitted = 0
        #: Silence to add to (or, negative, to cut from) the end of what is held, if another chunk comes.
        self._adjust = 0
        #: The beginning of a chunk, until it is long enough to tell how long the cross-fade is.
        self._opening: Audio | None = np.zeros(0, np.float32)
        #: Samples of silence that the chunk ends with so far.
        self._quiet = 0

    def push(self, chunk: Audio) -> Audio:
        """Samples that no later chunk can change."""
        return np.concatenate([self.feed(chunk), self.end_chunk()])

    def feed(self, samples: Audio, *, is_last: bool = False) -> Audio:
        """Add a part of the present chunk; ``is_last``: no chunk follows this one. Returns what nothing can change."""
        self._listen(samples)
        if self._opening is None:
            self._held = np.concatenate([self._held, samples])
        else:
            self._opening = np.concatenate([self._opening, samples])
            if len(self._opening) < _LARGEST_SHARE * self._longest_overlap():
                return np.zeros(0, np.float32)
            self._join()
        # The end of the chunk may be cut by as much as the wanted silence, and faded into the next.
        return self._emit(0 if is_last else self._rules.overlap + self._silence)

    def end_chunk(self) -> Audio:
        """End the present chunk; returns what no later chunk can change."""
        self._join()
        # Counted up to twice the wanted silence only: so much of a longer one is cut, and no more.
        quiet = min(self._quiet, 2 * self._silence)
        self._adjust = 0 if self._rules.silence is None else self._silence - quiet
        self._opening, self._quiet = np.zeros(0, np.float32), 0
        return self._emit(self._rules.overlap + max(0, -self._adjust))

    def finish(self) -> Audio:
        """The rest; the last chunk's end stays as it is."""
        return self._emit(0)

    def _join(self) -> None:
        """Fade what is held into the opening of the chunk, if that has not been done."""
        if self._opening is None:
            return
        overlap = min(self._longest_overlap(), len(self._opening) // _LARGEST_SHARE)
        self._held = _crossfade(self._before(), self._opening, overlap)
        self._adjust, self._opening = 0, None

    def _longest_overlap(self) -> int:
        before = self._emitted + len(self._held) + self._adjust
        return min(self._rules.overlap, before // _LARGEST_SHARE)

    def _before(self) -> Audio:
        kept = self._held[: len(self._held) + min(0, self._adjust)]
        return np.concatenate([kept, np.zeros(max(0, self._adjust), np.float32)])

    def _listen(self, samples: Audio) -> None:
        loud = np.flatnonzero(np.abs(samples) >= _SILENT)
        self._quiet = len(samples) - (int(loud[-1]) + 1) if len(loud) else self._quiet + len(samples)

    def _emit(self, keep: int) -> Audio:
        ready = self._held[: max(0, len(self._held) - keep)]
        self._held = self._held[len(ready) :]
        self._emitted += len(ready)
        return ready


def _crossfade(before: Audio, after: Audio, overlap: int) -> Audio:
    if not overlap:
        return np.concatenate([before, after])
    rise = np.linspace(0.0, 1.0, overlap, dtype=np.float32)
    mixed = before[-overlap:] * (1 - rise) + after[:overlap] * rise
    return np.concatenate([before[:-overlap], mixed, after[overlap:]])
