"""The audio of a Chatterbox answer: frames of mu-law, or small WAV files."""

from __future__ import annotations

from typing import Protocol

from compat.chatterbox.schemas import MULAW, OutputFormat
from echo.audio.frames import TelephoneFrames
from echo.audio.wav import FormatTag, header
from echo.stats import SpeechStats
from echo.types import AudioFormat, Encoding

#: What is spoken for an answer in pieces.
STREAMED: dict[OutputFormat, AudioFormat] = {
    OutputFormat.MULAW: MULAW,
    OutputFormat.WAV: AudioFormat(encoding=Encoding.PCM),
}


class Pieces(Protocol):
    """Cuts the bytes of a stream into the pieces that are sent; push any number of times, then finish once."""

    def push(self, data: bytes) -> list[bytes]:
        """Take bytes; return the pieces that are ready."""
        ...

    def finish(self) -> list[bytes]:
        """Return what was held back."""
        ...


class SmallWavs(Pieces):
    """Makes a complete WAV file of every piece of 16-bit samples; nothing is held back."""

    def __init__(self, rate: int) -> None:
        self._rate = rate

    def push(self, data: bytes) -> list[bytes]:
        """Take samples; return them as a file."""
        return [header(FormatTag.PCM, self._rate, len(data)) + data] if data else []

    def finish(self) -> list[bytes]:
        """Return nothing."""
        return []


def open_pieces(output_format: OutputFormat, rate: int) -> Pieces:
    """Return what cuts a stream of ``STREAMED`` audio at ``rate`` Hz."""
    return TelephoneFrames() if output_format is OutputFormat.MULAW else SmallWavs(rate)


def latency(stats: SpeechStats) -> dict[str, float]:
    """Return how long each stage of an answer took, in milliseconds to a tenth; together they are the whole."""
    queue_s = stats.queue_s or 0.0
    rest_s = (stats.total_s or 0.0) - stats.voice_s - queue_s - stats.transcode_s
    stages = dict(voice_load=stats.voice_s, queue=queue_s, generation=max(0.0, rest_s), transcode=stats.transcode_s)
    return {stage: round(seconds * 1000, 1) for stage, seconds in stages.items()}


def milliseconds(seconds: float) -> int:
    """Return a duration as clients of this format read it."""
    return round(seconds * 1000)
