"""Reading reference clips: any supported file to mono audio at 44.1 kHz, and the clips of a voice joined into one."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from echo.decoding.clip import Decode, decode
from echo.errors import BadRequest
from echo.types import SAMPLE_RATE, SAMPLES_PER_LATENT, Audio
from echo.voices.container import sniff
from echo.voices.content import content_key, digest_of, for_each_file, read_file
from echo.voices.voice import ClipVoice, Voice, VoiceKind

#: The model was trained with up to 6400 latents of reference; the pipeline reads the first five minutes.
MAX_SECONDS = 300.0
#: Silence between the clips of one voice.
GAP_SECONDS = 1.0
#: The speaker encoder groups four latents into one patch; less than a patch is no reference.
MIN_SAMPLES = 4 * SAMPLES_PER_LATENT
#: Peak below which a clip holds no voice (-60 dB of full scale).
SILENCE_PEAK = 1e-3

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadedVoice:
    """A voice's joined reference audio and the key of exactly the bytes it was decoded from."""

    key: str
    audio: Audio


class ClipJoiner:
    """Joins clips in order, with a second of silence between them, up to five minutes in all."""

    def __init__(self, max_seconds: float = MAX_SECONDS) -> None:
        self._limit = int(max_seconds * SAMPLE_RATE)
        self._parts: list[Audio] = []
        self._samples = 0

    @property
    def seconds_left(self) -> float:
        """How much of a further clip would still be used."""
        gap = GAP_SECONDS if self._parts else 0.0
        return max(0.0, (self._limit - self._samples) / SAMPLE_RATE - gap)

    def add(self, clip: Audio) -> None:
        """Append a clip, as far as there is room."""
        if self._parts:
            self._append(np.zeros(int(GAP_SECONDS * SAMPLE_RATE), np.float32))
        self._append(clip)

    def audio(self) -> Audio:
        """Return what has been joined so far."""
        return np.concatenate(self._parts) if self._parts else np.zeros(0, np.float32)

    def _append(self, part: Audio) -> None:
        part = part[: self._limit - self._samples]
        self._parts.append(part)
        self._samples += len(part)


# What decodes is an argument everywhere here. A server passes the method of its pool of child processes; without one
# FFmpeg works in this process, which is for files that one trusts.


def load_voice(voice: Voice | ClipVoice, decode: Decode = decode) -> LoadedVoice:
    """Read a voice's reference audio: mono, 44.1 kHz, 186 ms to five minutes.

    Every file is read once: the key and the audio come from the same bytes, whatever is being written meanwhile.
    A clip of a folder that cannot be decoded is left out and logged. Raises BadRequest where no usable audio is left,
    VoiceNotFound where the files have gone.
    """
    if isinstance(voice, ClipVoice):
        return LoadedVoice(content_key([digest_of(voice.audio)]), read_clip(voice.audio, decode=decode))
    joiner = ClipJoiner()

    def take(path: Path) -> bytes:
        content = read_file(path)
        if joiner.seconds_left > 0:
            try:
                joiner.add(decode_clip(content.data, joiner.seconds_left, decode))
            except BadRequest as error:
                _log.warning("voice %s: %s: %s", voice.id, path, error.message)
                if voice.kind is not VoiceKind.FOLDER:
                    raise
        return content.digest

    key = content_key(for_each_file(voice, take))
    return LoadedVoice(key, check_reference(joiner.audio()))


def read_clip(source: Path | bytes, max_seconds: float = MAX_SECONDS, decode: Decode = decode) -> Audio:
    """Decode one reference clip as mono at 44.1 kHz; raises BadRequest if it is undecodable, too short or silent."""
    data = source if isinstance(source, bytes) else read_file(source).data
    return check_reference(decode_clip(data, max_seconds, decode))


def check_reference(audio: Audio) -> Audio:
    """Return ``audio`` if it can serve as a reference; BadRequest if it is too short or silent."""
    if len(audio) < MIN_SAMPLES:
        shortest = round(1000 * MIN_SAMPLES / SAMPLE_RATE)
        raise BadRequest(f"The voice's audio is too short: at least {shortest} ms are needed.", param="voice")
    if np.abs(audio).max() < SILENCE_PEAK:
        raise BadRequest("The voice's audio is silent.", param="voice")
    return audio


def decode_clip(data: bytes, max_seconds: float = MAX_SECONDS, decode: Decode = decode) -> Audio:
    """Decode the beginning of an audio file as `echo.decoding.clip` does; raises BadRequest."""
    container = sniff(data)
    if container is None:
        raise BadRequest("The voice's audio is in no supported format.", param="voice")
    return decode(data, container.value, max_seconds)
