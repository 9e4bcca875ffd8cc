"""Joining finished chunks by equal pauses and a linear cross-fade: the rule of the serverless worker.

For interfaces that promise exactly that worker's result; :class:`~echo.audio.join.Joiner` is for everything else.
"""

from __future__ import annotations

from collections.abc import Iterable
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
    """Joins chunks as they come; holds back only what the next one may still change.

    ``push`` each chunk whole, ``finish`` after the last; the results, concatenated, do not depend on the streaming.
    """

    def __init__(self, rules: CrossfadeRules | None = None) -> None:
        self._rules = rules or CrossfadeRules()
        self._held = np.zeros(0, np.float32)
        self._emitted = 0
        self._adjust = (
            0  # silence to add to (or, negative, to cut from) the end of what is held, if another chunk comes
        )

    def push(self, chunk: Audio) -> Audio:
        """Samples that no later chunk can change."""
        before = self._held[: len(self._held) + min(0, self._adjust)]
        before = np.concatenate([before, np.zeros(max(0, self._adjust), np.float32)])
        joined = _crossfade(before, chunk, self._overlap(self._emitted + len(before), len(chunk)))
        self._adjust = 0 if self._rules.silence is None else self._rules.silence - self._trailing_silence(chunk)
        keep = self._rules.overlap + max(0, -self._adjust)
        ready = joined[: max(0, len(joined) - keep)]
        self._held = joined[len(ready) :]
        self._emitted += len(ready)
        return ready

    def finish(self) -> Audio:
        """The rest; the last chunk's end stays as it is."""
        rest, self._held, self._adjust = self._held, np.zeros(0, np.float32), 0
        return rest

    def _overlap(self, before: int, after: int) -> int:
        return min(self._rules.overlap, before // _LARGEST_SHARE, after // _LARGEST_SHARE)

    def _trailing_silence(self, chunk: Audio) -> int:
        # Counted up to twice the wanted silence only: so much of a longer one is cut, and no more.
        searched = chunk[max(0, len(chunk) - 2 * (self._rules.silence or 0)) :]
        loud = np.flatnonzero(np.abs(searched) >= _SILENT)
        return len(searched) - (int(loud[-1]) + 1 if len(loud) else 0)


def join_chunks(chunks: Iterable[Audio], rules: CrossfadeRules | None = None) -> Audio:
    """Join finished chunks at one rate, each [n], into one clip."""
    joiner = CrossfadeJoiner(rules)
    return np.concatenate([*(joiner.push(chunk) for chunk in chunks), joiner.finish()])


def _crossfade(before: Audio, after: Audio, overlap: int) -> Audio:
    if not overlap:
        return np.concatenate([before, after])
    rise = np.linspace(0.0, 1.0, overlap, dtype=np.float32)
    mixed = before[-overlap:] * (1 - rise) + after[:overlap] * rise
    return np.concatenate([before[:-overlap], mixed, after[overlap:]])
