"""Faster or slower speech at the same pitch, in a stream: FFmpeg's ``atempo`` (waveform-similarity overlap-add)."""

from __future__ import annotations

from fractions import Fraction

import av
import av.error
import av.filter
import numpy as np

from echo.audio.join import rising
from echo.errors import BadRequest
from echo.types import Audio

#: The range of OpenAI's ``speed``.
MIN_SPEED, MAX_SPEED = 0.25, 4.0

#: Silence fed in at the end, in seconds: atempo drops its last unfilled windows (up to 4 x 46 ms when chained).
_FLUSH_S = 0.25
#: Fade at the end, in seconds: a stretched wave does not end at zero, which would click.
_FADE_S = 0.005


def _stages(speed: float) -> list[float]:
    """Split ``speed`` into factors of 0.5 to 2: atempo refuses smaller ones, and skips audio at larger ones."""
    stages: list[float] = []
    while speed > 2.0:
        stages.append(2.0)
        speed /= 2.0
    while speed < 0.5:
        stages.append(0.5)
        speed /= 0.5
    return [*stages, speed]


class TimeStretch:
    """Changes the tempo of one mono stream by ``speed`` (0.25 to 4) and keeps its pitch.

    Exactly round(n / speed) samples come out for n pushed, the same whatever the sizes of the pieces; 1.0 passes the
    samples through untouched. Holds back 60 to 220 ms of input. Raises BadRequest for a speed out of range.
    """

    def __init__(self, rate: int, speed: float) -> None:
        if not MIN_SPEED <= speed <= MAX_SPEED:
            raise BadRequest(f"speed must be between {MIN_SPEED} and {MAX_SPEED}.", param="speed")
        self._rate = rate
        self._speed = speed
        self.restart()

    def push(self, samples: Audio) -> Audio:
        """Return the stretched samples that are ready."""
        if self._graph is None:
            return samples
        self._feed(self._graph, samples)
        return self._drain(self._graph)

    def finish(self) -> Audio:
        """Return the rest, after the last push."""
        if self._graph is None:
            return np.zeros(0, np.float32)
        wanted = max(0, round(self._pushed / self._speed) - self._pulled)
        self._feed(self._graph, np.zeros(round(_FLUSH_S * self._rate), np.float32))
        self._graph.push(None)
        rest = self._drain(self._graph)[:wanted]
        fade = min(len(rest), round(_FADE_S * self._rate))
        if fade:
            rest[-fade:] *= rising(fade)[::-1]
        self.close()
        return rest

    def restart(self) -> None:
        """Begin anew after ``finish``, as if nothing had been pushed."""
        self._pushed = 0
        self._pulled = 0
        self._graph = None if self._speed == 1.0 else self._build()

    def close(self) -> None:
        """Free the filters; safe to call at any time."""
        self._graph = None

    def _build(self) -> av.filter.Graph:
        graph = av.filter.Graph()
        nodes = [
            graph.add_abuffer(sample_rate=self._rate, format="flt", layout="mono", time_base=Fraction(1, self._rate)),
            *(graph.add("atempo", repr(stage)) for stage in _stages(self._speed)),
            graph.add("abuffersink"),
        ]
        graph.link_nodes(*nodes).configure()
        return graph

    def _feed(self, graph: av.filter.Graph, samples: Audio) -> None:
        if not len(samples):
            return
        plane = np.ascontiguousarray(samples, dtype=np.float32)[np.newaxis]
        frame = av.AudioFrame.from_ndarray(plane, format="flt", layout="mono")
        frame.sample_rate = self._rate
        frame.pts = self._pushed
        frame.time_base = Fraction(1, self._rate)
        self._pushed += len(samples)
        graph.push(frame)

    def _drain(self, graph: av.filter.Graph) -> Audio:
        parts = [np.zeros(0, np.float32)]
        while True:
            try:
                frame = graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):  # it needs more input; it has ended
                break
            assert isinstance(frame, av.AudioFrame)
            parts.append(frame.to_ndarray()[0])
        ready = np.concatenate(parts)
        self._pulled += len(ready)
        return ready
