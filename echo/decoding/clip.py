"""One audio file to mono at 44.1 kHz. FFmpeg runs here, on bytes of unknown origin: call it in a child process."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import av
import av.error
import numpy as np

from echo.audio.resample import Resampler
from echo.decoding.refusal import MAX_CHANNELS, Refusal, Refused
from echo.decoding.riff import promises_more_text_than_it_has
from echo.types import SAMPLE_RATE, Audio

Decode = Callable[[bytes, str, float], Audio]
"""Decodes the beginning of a file: its bytes, the name of FFmpeg's demuxer, seconds; raises BadRequest."""

#: Beyond these a header is damaged or made to exhaust memory; speech below 4 kHz is not intelligible.
_MIN_RATE, _MAX_RATE = 4_000, 384_000
#: So many more packets than frames that nothing will come of the file; each costs an exception.
_MAX_BAD = 1_000

#: What people record speech with. FFmpeg has some 200 other decoders of audio, hardly used and hardly tested; pictures
#: and video in a file are not decoded at all.
_CODECS = (
    *("aac", "aac_latm", "ac3", "eac3", "alac", "flac", "mp1float", "mp2float", "mp3float", "mp1", "mp2", "mp3"),
    *("opus", "vorbis", "libopus", "libvorbis", "speex", "libspeex", "wmav1", "wmav2", "gsm", "gsm_ms"),
    *("pcm_u8", "pcm_s8", "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_s32le", "pcm_s32be", "pcm_f32le"),
    *("pcm_f32be", "pcm_f64le", "pcm_f64be", "pcm_alaw", "pcm_mulaw", "adpcm_ms", "adpcm_ima_wav", "adpcm_ima_qt"),
)
_OPTIONS = {"codec_whitelist": ",".join(_CODECS)}


def decode(data: bytes, demuxer: str, max_seconds: float) -> Audio:
    """Decode the beginning of a file: channels averaged, resampled to 44.1 kHz, attenuated where it clips.

    Quiet audio is not raised. The result has at most ``max_seconds``, whatever the file claims. Raises Refused.
    """
    if demuxer == "wav" and promises_more_text_than_it_has(data):
        raise Refused(Refusal.UNDECODABLE)
    clip = _ClipBuilder(max_seconds)
    try:
        _decode_into(clip, data, demuxer)
        audio = clip.finish()
    except MemoryError:  # before the others: FFmpeg's own is an OSError as well
        raise Refused(Refusal.MEMORY) from None
    except (av.error.FFmpegError, OSError, EOFError, ValueError, IndexError):
        raise Refused(Refusal.UNDECODABLE) from None
    if len(audio) == 0 or not np.isfinite(audio).all():
        raise Refused(Refusal.UNDECODABLE)
    np.divide(audio, max(1.0, float(audio.max()), -float(audio.min())), out=audio)
    return audio


class _ClipBuilder:
    """Collects mono audio of any rate as 44.1 kHz until there is enough."""

    def __init__(self, max_seconds: float) -> None:
        self._limit = round(max_seconds * SAMPLE_RATE)
        self._seconds_left = max_seconds
        self._rate = 0
        self._resampler: Resampler | None = None
        self._parts: list[Audio] = []

    @property
    def full(self) -> bool:
        return round(self._seconds_left * self._rate) == 0

    def push(self, mono: Audio, rate: int) -> None:
        if self._resampler is None or rate != self._rate:  # also between the links of a chained Ogg file
            self._drain()
            self._rate = rate
            self._resampler = Resampler(rate, SAMPLE_RATE)
        mono = mono[: round(self._seconds_left * rate)]
        self._seconds_left -= len(mono) / rate
        self._parts.append(self._resampler.push(mono))

    def finish(self) -> Audio:
        self._drain()
        return np.concatenate([np.zeros(0, np.float32), *self._parts])[: self._limit]

    def _drain(self) -> None:
        if self._resampler is not None:
            self._parts.append(self._resampler.finish())
            self._resampler = None


class _Interleaver:
    """Turns frames of any sample type into float32 with the channels side by side.

    FFmpeg does it, because a frame with a plane per channel must not be looked into from Python: PyAV's
    ``AudioFrame.planes``, which ``to_ndarray`` uses, ends at the first null pointer and not at the number of channels,
    so that with eight channels and more it reads what lies behind the pointers.
    """

    def __init__(self) -> None:
        self._shape: tuple[str, int, int] | None = None
        self._converter = av.AudioResampler(format="flt")

    def push(self, frame: av.AudioFrame) -> Iterator[Audio]:
        """Yield samples [n, channels]."""
        channels = frame.layout.nb_channels
        shape = (frame.format.name, channels, frame.sample_rate)
        if shape != self._shape:  # a converter takes one kind of frame; it holds nothing back
            self._shape, self._converter = shape, av.AudioResampler(format="flt")
        for packed in self._converter.resample(frame):
            samples: Audio = packed.to_ndarray().astype(np.float32, copy=False)
            yield samples.reshape(-1, channels)


def _decode_into(clip: _ClipBuilder, data: bytes, demuxer: str) -> None:
    # The demuxer is named, never guessed: FFmpeg also knows playlists, which would open other files and addresses.
    # Titles in old encodings must not fail the decoding.
    good = bad = 0
    interleaver = _Interleaver()
    with av.open(io.BytesIO(data), mode="r", format=demuxer, options=_OPTIONS, metadata_errors="ignore") as file:
        stream = file.streams.audio[0]
        codec = stream.codec_context
        if codec is None or codec.name not in _CODECS:
            raise Refused(Refusal.UNDECODABLE)
        codec.thread_count = 1
        for packet in file.demux(stream):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:  # a damaged packet; players skip it too
                bad += 1
                if bad - good > _MAX_BAD:
                    raise
                continue
            for frame in frames:
                good += 1
                if not _MIN_RATE <= frame.sample_rate <= _MAX_RATE:
                    raise Refused(Refusal.UNDECODABLE)
                if frame.layout.nb_channels > MAX_CHANNELS:
                    raise Refused(Refusal.CHANNELS)
                for samples in interleaver.push(frame):
                    clip.push(_mono(samples), frame.sample_rate)
                if clip.full:
                    return
    if bad > good:
        raise Refused(Refusal.UNDECODABLE)


def _mono(samples: Audio) -> Audio:
    """Average the channels of [n, channels]."""
    with np.errstate(over="ignore", invalid="ignore"):  # damaged float files; they are refused once decoded
        mono: Audio = samples.mean(axis=1, dtype=np.float64).astype(np.float32)
    return mono
