"""Reference clips for the tests of voices, written in every format that is accepted."""

from __future__ import annotations

import io
import os
import wave
from pathlib import Path

import av
import numpy as np

from echo.types import Audio
from echo.voices import ClipVoice, Voice
from echo.voices.reference import load_voice

#: Suffix -> (container, codec) that FFmpeg writes it with.
FORMATS = {
    ".wav": ("wav", "pcm_s16le"),
    ".mp3": ("mp3", "libmp3lame"),
    ".m4a": ("ipod", "aac"),
    ".ogg": ("ogg", "libopus"),
    ".flac": ("flac", "flac"),
    ".webm": ("webm", "libopus"),
    ".aac": ("adts", "aac"),
    ".opus": ("ogg", "libopus"),
}


def tone(seconds: float = 0.5, hertz: float = 440.0, level: float = 0.5, rate: int = 44_100) -> Audio:
    times = np.arange(round(seconds * rate)) / rate
    return (level * np.sin(2 * np.pi * hertz * times)).astype(np.float32)


def read_voice(voice: Voice | ClipVoice) -> Audio:
    return load_voice(voice).audio


def wav_bytes(samples: Audio, rate: int = 44_100, channels: int = 1) -> bytes:
    """Write interleaved samples as 16-bit WAV."""
    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.rint(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return target.getvalue()


#: FFmpeg's names of a container, a codec and a layout with eight channels or more, in which people record.
SURROUND = {
    "m4a": ("ipod", "aac", "7.1"),
    "aac": ("adts", "aac", "7.1"),
    "aac wide": ("adts", "aac", "7.1(wide)"),
    "alac": ("ipod", "alac", "7.1(wide)"),
    "opus": ("ogg", "libopus", "7.1"),
    "webm": ("webm", "libopus", "7.1"),
    "flac": ("flac", "flac", "7.1"),
    "wav": ("wav", "pcm_s16le", "7.1"),
    "wav of 64": ("wav", "pcm_s16le", "64 channels"),
}


def encoded(suffix: str, samples: Audio, rate: int = 48_000) -> bytes:
    """Encode mono audio as the format that ``suffix`` stands for."""
    return encoded_as(*FORMATS[suffix], "mono", samples, rate)


def encoded_as(
    container: str,
    codec: str,
    layout: str,
    samples: Audio,
    rate: int = 48_000,
    options: dict[str, str] | None = None,
) -> bytes:
    """Encode interleaved audio with FFmpeg's ``container`` (and its ``options``), ``codec`` and channel ``layout``."""
    target = io.BytesIO()
    with av.open(target, "w", format=container, options=options or {}) as file:
        stream = file.add_stream(codec, rate=rate, layout=layout)
        assert isinstance(stream, av.AudioStream)
        pcm = np.rint(samples * 32767).astype(np.int16).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout=layout)
        frame.sample_rate = rate
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return target.getvalue()


def level(value: int, seconds: float = 0.2) -> bytes:
    """Return a WAV file whose every sample is ``value`` (of 32767), so that the audio tells which file it was."""
    return wav_bytes(np.full(round(seconds * 44_100), value / 32767, np.float32))


def level_of(audio: Audio) -> int:
    """Read back the value of `level`: the reader's full scale is 32768."""
    return round(float(audio[len(audio) // 2]) * 32768)


def clone_level_of(audio: Audio) -> int:
    """Read back the value of `level` from a clone, to the nearest ten: storing it truncates to 16 bit once more."""
    return round(level_of(audio) / 10) * 10


def replace_file(path: Path, data: bytes) -> None:
    """Publish ``data`` as writers should: a rename from a name that is never read."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def touch_clips(folder: Path, *names: str) -> None:
    """Create clips that are only listed, never decoded."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"not decoded here")
