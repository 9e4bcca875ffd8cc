"""Pieces on the disk -> one audio file, without holding it in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np

from echo.audio.encode import open_output
from echo.audio.pcm import from_bytes
from echo.audio.wav import UNKNOWN_SIZE, FormatTag, header
from echo.errors import BadRequest
from echo.files import atomic_write
from echo.jobs.store import SAMPLE_BYTES
from echo.types import Audio, AudioFormat, Encoding

#: Samples that are encoded at a time.
_AT_ONCE = 2**18
#: More than the bytes of a header.
_HEAD = 64


def render(pieces: Iterable[tuple[Path, int]], target: Path, format: AudioFormat, source_rate: int) -> float:
    """Write the pieces, each followed by so many milliseconds of silence, as one file; return its seconds.

    ``source_rate`` is that of the pieces, in Hz. Raises BadRequest for a format that cannot hold it, and OSError.
    """
    is_wav = format.encoding is Encoding.WAV
    if is_wav:  # its sizes come first, and would be known only with everything in memory
        format = replace(format, encoding=Encoding.PCM)
    with atomic_write(target) as path, path.open("w+b") as file, open_output(format, source_rate) as output:
        if is_wav:
            file.write(header(FormatTag.PCM, output.sample_rate, 0))
        for samples in _samples(pieces, source_rate):
            file.write(output.push(samples))
        file.write(output.finish())
        if is_wav:
            _write_wav_sizes(file, output.sample_rate)
        else:
            output.complete(file)
        return output.duration_s


def _samples(pieces: Iterable[tuple[Path, int]], rate: int) -> Iterator[Audio]:
    for path, pause_ms in pieces:
        with path.open("rb") as file:
            while data := file.read(_AT_ONCE * SAMPLE_BYTES):
                yield from_bytes(data)
        yield np.zeros(rate * pause_ms // 1000, np.float32)


def _write_wav_sizes(file: IO[bytes], rate: int) -> None:
    file.seek(0, 2)
    count = file.tell() - len(header(FormatTag.PCM, rate, 0))
    if count > UNKNOWN_SIZE - _HEAD:
        raise BadRequest(
            "response_format: a wav file holds no more than 4 GB; flac, or another, holds all of it.",
            param="response_format",
        )
    file.seek(0)
    file.write(header(FormatTag.PCM, rate, count))
