"""Samples -> what a caller gets: one Ogg Opus file, uploaded or inline, or pieces of 16-bit PCM."""

from __future__ import annotations

import asyncio
import base64
import tempfile
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from echo.audio.encode import open_output
from echo.audio.pcm import to_bytes
from echo.errors import BadRequest
from echo.types import Audio, AudioFormat, Encoding

#: What the files of both old workers are: Ogg Opus at 24 kHz, 128 kbit/s.
FILE_FORMAT = AudioFormat(encoding=Encoding.OPUS, sample_rate=24_000, bit_rate=128_000)
FILE_FACTS = {"sample_rate": 24_000, "codec": "opus", "bitrate": "128k"}
FILE_SUFFIX = ".ogg"
FILE_TYPE = "audio/ogg"
#: Largest file that is returned inline: its base64 stays below the 10 MB of the platform's payloads.
LARGEST_INLINE = 7_000_000
#: The platform takes 1 MB per piece of a stream; in base64 this is 960 kB.
LARGEST_PIECE = 720_000


@dataclass(frozen=True, slots=True)
class SpokenFile:
    """A finished file, open for reading, and how long it plays."""

    file: IO[bytes]
    duration_s: float


@asynccontextmanager
async def encoded(samples: AsyncIterable[Audio], rate: int, folder: Path) -> AsyncIterator[SpokenFile]:
    """Write samples at ``rate`` Hz as a file in ``folder`` that is gone at the end of the context.

    The file has no name: whatever happens to the process, the folder stays empty.
    """
    with tempfile.TemporaryFile(dir=folder) as file, open_output(FILE_FORMAT, rate) as output:
        async for part in samples:
            file.write(await asyncio.to_thread(output.push, part))
        file.write(await asyncio.to_thread(output.finish))
        yield SpokenFile(file, output.duration_s)


def inline(file: IO[bytes], *, as_piece: bool) -> str:
    """Return a file in base64; raises BadRequest where it is too large for an answer, or for a piece of a stream."""
    largest = LARGEST_PIECE if as_piece else LARGEST_INLINE
    file.seek(0)
    data = file.read(largest + 1)
    if len(data) > largest:
        raise BadRequest(
            f"text is too long: its file has more than {largest / 1_000_000:g} MB, the most that an answer can hold; "
            "the worker needs S3 settings for longer ones.",
            param="text",
        )
    return base64.b64encode(data).decode()


async def pieces(samples: AsyncIterable[Audio], rate: int) -> AsyncGenerator[dict[str, Any]]:
    """Yield the messages of a stream, ``chunk`` counting from 1; concatenated, their audio has no gaps."""
    count = 0
    async for part in samples:
        data = to_bytes(part)
        for start in range(0, len(data), LARGEST_PIECE):
            count += 1
            yield {
                "status": "streaming",
                "chunk": count,
                "format": "pcm_16",
                "audio_chunk": base64.b64encode(data[start : start + LARGEST_PIECE]).decode(),
                "sample_rate": rate,
            }
