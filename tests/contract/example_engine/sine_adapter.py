"""The sine engine as an adapter: the same tone from a process, and an environment, of its own.

A table of ``engines.toml`` names the file; ``ECHO_ENGINE=sine`` then chooses it::

    [sine]
    adapter = "sine_adapter.py"
    python = "venv"
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from child import Job, Refused  # the program that runs this file

RATE = 24_000
HERTZ = 440.0
S_PER_CHAR = 0.06
#: Samples of an array: the engine can be cancelled, and told to wait, between two of them.
STEP = RATE // 2


class Adapter:
    """Speaks 60 ms of tone per character, as loud as the voice."""

    def load(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Load the engine, and say what it is and can do."""
        return {
            "name": "sine",
            "version": np.__version__,
            "sample_rate": RATE,
            "license": "MIT",
            "capabilities": {"clone": True, "stream": "token"},
            "limits": {"clip_max_s": 10.0, "max_chars": 300},
        }

    def voice(self, pcm: np.ndarray, rate: int) -> float:
        """Return how loud a clip is."""
        loudest = float(np.abs(pcm).max())
        if not loudest:
            raise Refused("voice_rejected", "the clip is silent")
        return loudest

    def speak(self, job: Job) -> Iterator[np.ndarray]:
        """Speak a text."""
        loudness = 0.5 if job.voice is None else job.voice
        total = round(len(job.text) * S_PER_CHAR * RATE)
        for start in range(0, total, STEP):
            end = min(total, start + STEP)
            job.last = end == total
            yield loudness * np.sin(2 * np.pi * HERTZ / RATE * np.arange(start, end))
