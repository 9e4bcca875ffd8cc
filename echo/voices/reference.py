"""Reading reference clips: any supported file to mono audio at 44.1 kHz, and the clips of a voice joined into one."""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass
from pathlib import Path

import av
import av.error
import numpy as np
import soxr

from echo.errors import BadRequest
from echo.types import SAMPLE_RATE, SAMPLES_PER_LATENT, Audio
from echo.voices.container import Container, sniff
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

#: Beyond these a header is damaged or made to exhaust memory; speech below 4 kHz is not intelligible.
_MIN_RATE, _MAX_RATE = 4_000, 384_000

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


def load_voice(voice: Voice | ClipVoice) -> LoadedVoice:
    """Read a voice's reference audio: mono, 44.1 kHz, 186 ms to five minutes.

    Every file is read once: the key and the audio come from the same bytes, whatever is being written meanwhile.
    A clip of a folder that cannot be decoded is left out and logged. Raises BadRequest where no usable audio is left,
    VoiceNotFound where the files have gone.
    """
    if isinstance(voice, ClipVoice):
        return LoadedVoice(content_key([digest_of(voice.audio)]), read_clip(voice.audio))
    joiner = ClipJoiner()

    def take(path: Path) -> bytes:
        content = read_file(path)
        if joiner.seconds_left > 0:
            try:
                joiner.add(decode_clip(content.data, joiner.seconds_left))
            except BadRequest as error:
                _log.warning("voice %s: %s: %s", voice.id, path, error.message)
                if voice.kind is not VoiceKind.FOLDER:
                    raise
        return content.digest

    key = content_key(for_each_file(voice, take))
    return LoadedVoice(key, check_reference(joiner.audio()))


def read_voice(voice: Voice | ClipVoice) -> Audio:
    """Return only the audio of `load_voice`."""
    return load_voice(voice).audio


def read_clip(source: Path | bytes, max_seconds: float = MAX_SECONDS) -> Audio:
    """Decode one reference clip as mono at 44.1 kHz; raises BadRequest if it is undecodable, too short or silent."""
    data = source if isinstance(source, bytes) else read_file(source).data
    return check_reference(decode_clip(data, max_seconds))


def check_reference(audio: Audio) -> Audio:
    """Return ``audio`` if it can serve as a reference; BadRequest if it is too short or silent."""
    if len(audio) < MIN_SAMPLES:
        shortest = round(1000 * MIN_SAMPLES / SAMPLE_RATE)
        raise BadRequest(f"The voice's audio is too short: at least {shortest} ms are needed.", param="voice")
    if np.abs(audio).max() < SILENCE_PEAK:
        raise BadRequest("The voice's audio is silent.", param="voice")
    return audio


def decode_clip(data: bytes, max_seconds: float = MAX_SECONDS) -> Audio:
    """Decode the beginning of an audio file: channels averaged, resampled to 44.1 kHz, attenuated where it clips.

    Quiet audio is not raised. Memory is bound by ``max_seconds``, whatever the file claims. Raises BadRequest.
    """
    container = sniff(data)
    if container is None:
        raise BadRequest("The voice's audio is in no supported format.", param="voice")
    resampler = _Resampler(max_seconds)
    try:
        _decode_into(resampler, data, container)
    except (av.error.FFmpegError, OSError, EOFError, ValueError, IndexError):
        raise _undecodable() from None
    audio = resampler.finish()
    if len(audio) == 0 or not np.isfinite(audio).all():
        raise _undecodable()
    return audio / max(1.0, float(np.abs(audio).max()))


class _Resampler:
    """Collects mono audio of any rate as 44.1 kHz until there is enough."""

    def __init__(self, max_seconds: float) -> None:
        self._limit = round(max_seconds * SAMPLE_RATE)
        self._seconds_left = max_seconds
        self._rate = 0
        self._stream: soxr.ResampleStream | None = None
        self._parts: list[Audio] = []

    @property
    def full(self) -> bool:
        return round(self._seconds_left * self._rate) == 0

    def push(self, mono: Audio, rate: int) -> None:
        if rate != self._rate:  # also between the links of a chained Ogg file
            self._drain()
            self._rate = rate
            if rate != SAMPLE_RATE:
                self._stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
        mono = mono[: round(self._seconds_left * rate)]
        self._seconds_left -= len(mono) / rate
        self._parts.append(mono if self._stream is None else self._stream.resample_chunk(mono))

    def finish(self) -> Audio:
        self._drain()
        return np.concatenate([np.zeros(0, np.float32), *self._parts])[: self._limit]

    def _drain(self) -> None:
        if self._stream is not None:
            self._parts.append(self._stream.resample_chunk(np.zeros(0, np.float32), last=True))
            self._stream = None


def _decode_into(resampler: _Resampler, data: bytes, container: Container) -> None:
    # The demuxer is named, never guessed: FFmpeg also knows playlists, which would open other files and addresses.
    # Titles in old encodings must not fail the decoding.
    good = bad = 0
    with av.open(io.BytesIO(data), mode="r", format=container.value, metadata_errors="ignore") as file:
        for packet in file.demux(file.streams.audio[0]):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:  # a damaged packet; players skip it too
                bad += 1
                continue
            for frame in frames:
                good += 1
                if not _MIN_RATE <= frame.sample_rate <= _MAX_RATE:
                    raise _undecodable()
                resampler.push(_mono(frame), frame.sample_rate)
                if resampler.full:
                    return
    if bad > good:
        raise _undecodable()


def _mono(frame: av.AudioFrame) -> Audio:
    """Average the channels of a frame; integer samples become -1..1."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, len(frame.layout.channels)).T
    with np.errstate(over="ignore", invalid="ignore"):  # damaged float files; they are refused once decoded
        mono: Audio = samples.mean(axis=0, dtype=np.float64).astype(np.float32)
    match samples.dtype.kind:
        case "u":
            return (mono - 128.0) / 128.0
        case "i":
            return mono / float(2 ** (8 * samples.dtype.itemsize - 1))
    return mono


def _undecodable() -> BadRequest:
    return BadRequest("The voice's audio cannot be decoded.", param="voice")
