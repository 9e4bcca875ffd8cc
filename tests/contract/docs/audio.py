"""Decoding what came back, whatever it is: what players and ffmpeg make of it."""

from __future__ import annotations

import io
from dataclasses import dataclass

import av

from tests.contract.serving import Served


@dataclass(frozen=True, slots=True)
class Decoded:
    """An audio file, decoded to its end."""

    codec: str
    sample_rate: int
    seconds: float


def decoded(data: bytes, container_format: str | None = None) -> Decoded:
    """Decode a file; the format is found out unless it is given, which takes more than a few frames of audio."""
    with av.open(io.BytesIO(data), "r", format=container_format) as container:
        stream = container.streams.audio[0]
        samples = sum(frame.samples for frame in container.decode(stream))
        return Decoded(stream.codec_context.name, stream.sample_rate, samples / stream.sample_rate)


def spoken_seconds(server: Served) -> float:
    """Return how long the engine's speech has been since its script was fresh."""
    script = server.script
    return sum(len(utterance.text) for utterance in script.spoken) * script.audio_s_per_char
