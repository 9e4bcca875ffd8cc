"""RIFF/WAVE files, mono: 44 bytes of header for 16-bit PCM, the longer form that G.711 requires."""

from __future__ import annotations

import struct
from enum import IntEnum

from typing_extensions import override

from echo.audio.pcm import to_bytes
from echo.audio.raw import Encoder
from echo.types import Audio

#: The size that stands for "not known yet" in the header of a stream.
UNKNOWN_SIZE = 0xFFFF_FFFF


class FormatTag(IntEnum):
    """What the ``fmt`` chunk says the samples are (mmreg.h names)."""

    PCM = 1
    ALAW = 6
    MULAW = 7

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sample: 16-bit PCM or one companded byte."""
        return 2 if self is FormatTag.PCM else 1


def header(tag: FormatTag, rate: int, data_bytes: int | None) -> bytes:
    """Everything before the samples of a mono file; ``data_bytes`` None means not known (all sizes 0xFFFFFFFF).

    PCM: 16-byte ``fmt`` chunk, 44 bytes in all. Other tags: 18-byte ``fmt`` and a ``fact`` chunk with the number of
    samples, which the format requires for anything but PCM: 58 bytes in all.
    """
    width = tag.sample_bytes
    fmt = struct.pack("<HHIIHH", tag, 1, rate, rate * width, width, 8 * width)
    extra = b""
    if tag is not FormatTag.PCM:
        fmt += struct.pack("<H", 0)
        extra = struct.pack("<4sII", b"fact", 4, UNKNOWN_SIZE if data_bytes is None else data_bytes // width)
    chunks = struct.pack("<4sI", b"fmt ", len(fmt)) + fmt + extra
    if data_bytes is None:
        riff = data = UNKNOWN_SIZE
    else:
        data = min(data_bytes, UNKNOWN_SIZE)
        riff = min(4 + len(chunks) + 8 + data_bytes + data_bytes % 2, UNKNOWN_SIZE)
    return struct.pack("<4sI4s", b"RIFF", riff, b"WAVE") + chunks + struct.pack("<4sI", b"data", data)


def pcm_file(samples: Audio, rate: int) -> bytes:
    """Return a whole 16-bit file of samples [n] at ``rate`` Hz."""
    data = to_bytes(samples)
    return header(FormatTag.PCM, rate, len(data)) + data


class WavEncoder(Encoder):
    """Puts what another encoder makes into one WAV file.

    The file comes whole at the end, with true sizes; ``unsized`` sends the header at once, without sizes.
    """

    def __init__(self, tag: FormatTag, rate: int, samples: Encoder, *, unsized: bool) -> None:
        self._tag = tag
        self._rate = rate
        self._samples = samples
        self._unsized = unsized
        self._started = False
        self._held: list[bytes] = []

    @override
    def push(self, samples: Audio) -> bytes:
        data = self._samples.push(samples)
        if self._unsized:
            return self._opening() + data
        self._held.append(data)
        return b""

    @override
    def finish(self) -> bytes:
        rest = self._samples.finish()
        if self._unsized:
            return self._opening() + rest
        data = b"".join([*self._held, rest])
        self._held.clear()
        padding = b"\0" * (len(data) % 2)  # RIFF chunks are word-aligned; the pad byte is not part of the data size
        return header(self._tag, self._rate, len(data)) + data + padding

    @override
    def close(self) -> None:
        self._samples.close()
        self._held.clear()

    def _opening(self) -> bytes:
        if self._started:
            return b""
        self._started = True
        return header(self._tag, self._rate, None)
