"""What ECHO_DEBUG_LOGS adds: timings of every request in the log, and the last generation as a file."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path

import numpy as np

from echo.audio.wav import pcm_file
from echo.files import atomic_write
from echo.pipeline import Pipeline
from echo.stats import SpeechStats
from echo.types import Audio

log = logging.getLogger(__name__)

#: In the working directory, as existing Echo servers name it.
GENERATION_FILE = Path("api_generation.wav")


class Recorder:
    """Watches pipelines: logs their timings, and keeps the audio of the one that ended last.

    The file holds the joined audio at the engine's rate, before speed and encoding, as 16-bit WAV; one that was
    cancelled or failed leaves what it had made. Written by ``workers``.
    """

    def __init__(self, rate: int, workers: Executor, file: Path = GENERATION_FILE) -> None:
        self._rate = rate
        self._workers = workers
        self._file = file.absolute()

    def watch(self, pipeline: Pipeline) -> None:
        """Watch a pipeline that has not begun yet."""
        heard: list[Audio] = []
        pipeline.on_samples(heard.append)
        pipeline.on_end(partial(self._ended, pipeline.stats, heard))

    def _ended(self, stats: SpeechStats, heard: list[Audio]) -> None:
        log.debug(
            "timings: queue %s, first frame %s, total %s, %d steps in %d blocks, %.2f s of audio",
            _seconds(stats.queue_s),
            _seconds(stats.first_frame_s),
            _seconds(stats.total_s),
            stats.steps,
            stats.blocks,
            stats.audio_s,
        )
        if heard:
            self._workers.submit(save_wav, self._file, heard, self._rate)


def save_wav(file: Path, pieces: Sequence[Audio], rate: int) -> None:
    """Write float samples, mono, as one 16-bit WAV file that is whole at any time; a failure is only a warning."""
    try:
        with atomic_write(file) as temporary:
            temporary.write_bytes(pcm_file(np.concatenate(pieces), rate))
    except OSError as error:
        log.warning("%s cannot be written: %s", file, error.strerror)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f} s"
