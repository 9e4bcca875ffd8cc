"""Samples to the bytes a client asked for: time-stretch, then resample, then one continuous encoder per response."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from types import MappingProxyType, TracebackType
from typing import IO, Self

import numpy as np

from echo.audio.compressed import CODECS, CompressedEncoder, available, with_flac_length
from echo.audio.pcm import float_bytes, to_bytes
from echo.audio.raw import Encoder, RawEncoder
from echo.audio.resample import Resampler
from echo.audio.stretch import TimeStretch
from echo.audio.wav import FormatTag, WavEncoder
from echo.errors import BadRequest
from echo.types import Audio, AudioFormat, Encoding

#: Rates a client may ask for, in Hz: telephone to studio.
MIN_RATE, MAX_RATE = 8_000, 48_000
#: G.711 is defined at 8 kHz; another rate is used only on request.
TELEPHONE_RATE = 8_000
#: Every Opus decoder plays at this rate, whatever rate went in (RFC 7845).
OPUS_RATE = 48_000
#: More bytes than any header that states a length.
_HEAD = 64

MEDIA_TYPES: Mapping[Encoding, str] = MappingProxyType(
    {
        Encoding.PCM: "audio/pcm",
        Encoding.WAV: "audio/wav",
        Encoding.MP3: "audio/mpeg",
        Encoding.OPUS: "audio/opus",
        Encoding.FLAC: "audio/flac",
        Encoding.AAC: "audio/aac",
        Encoding.MULAW: "audio/pcmu",
        Encoding.ALAW: "audio/pcma",
        Encoding.WAV_MULAW: "audio/wav",
        Encoding.WAV_ALAW: "audio/wav",
        Encoding.F32: "application/octet-stream",
    }
)

_RAW: Mapping[Encoding, Callable[[Audio], bytes]] = MappingProxyType(
    {Encoding.PCM: to_bytes, Encoding.F32: float_bytes}
)
#: Format tag and samples of each kind of WAV file.
_WAV: Mapping[Encoding, tuple[FormatTag, Encoding]] = MappingProxyType(
    {
        Encoding.WAV: (FormatTag.PCM, Encoding.PCM),
        Encoding.WAV_MULAW: (FormatTag.MULAW, Encoding.MULAW),
        Encoding.WAV_ALAW: (FormatTag.ALAW, Encoding.ALAW),
    }
)


class Output:
    """One response's audio: float samples at the engine's rate in, bytes of the asked-for format out.

    ``sample_rate`` is the rate a player will hear (Opus: always 48 kHz). ``push`` any number of times, then
    ``finish`` once. ``close`` may come at any time and from any thread: it waits for a push that is running, and
    whatever is pushed afterwards is dropped.
    """

    def __init__(
        self,
        encoding: Encoding,
        stretch: TimeStretch,
        resampler: Resampler,
        encoder: Encoder,
        coded_rate: int,
        bytes_per_s: float,
    ) -> None:
        self.encoding = encoding
        #: Bytes per second of audio; an estimate for FLAC, whose size depends on the sound.
        self.bytes_per_s = bytes_per_s
        self.media_type = MEDIA_TYPES[encoding]
        self.sample_rate = OPUS_RATE if encoding is Encoding.OPUS else coded_rate
        self._coded_rate = coded_rate
        self._stretch = stretch
        self._resampler = resampler
        self._encoder = encoder
        self._lock = threading.Lock()
        self._done = False
        self._coded_samples = 0

    @property
    def duration_s(self) -> float:
        """Seconds of audio encoded so far, as a player will hear them; final after ``finish``."""
        return self._coded_samples / self._coded_rate

    def push(self, samples: Audio) -> bytes:
        """Return the bytes that are ready, perhaps none."""
        with self._lock:
            if self._done:
                return b""
            return self._encode(self._resampler.push(self._stretch.push(samples)))

    def drain(self) -> bytes:
        """Give out all samples that are held, where a silence follows; only a codec's frame may still be incomplete."""
        with self._lock:
            if self._done:
                return b""
            data = self._encode(self._held())
            self._stretch.restart()
            self._resampler.restart()
            return data

    def finish(self) -> bytes:
        """Return what was held back, and the end of the file; frees the encoder."""
        with self._lock:
            if self._done:
                return b""
            last = self._encode(self._held()) + self._encoder.finish()
            self._free()
            return last

    def _held(self) -> Audio:
        """The samples that time-stretch and resampler still hold, both of which end here."""
        stretched = self._resampler.push(self._stretch.finish())
        return np.concatenate([stretched, self._resampler.finish()])

    def whole(self, body: bytes) -> bytes:
        """Turn all bytes of a finished output into a file that states its length, which a FLAC stream cannot.

        libsndfile refuses a FLAC file of unknown length (libsndfile#1038); FFmpeg and browsers take it.
        """
        return with_flac_length(body, self._coded_samples) if self.encoding is Encoding.FLAC else body

    def complete(self, file: IO[bytes]) -> None:
        """Do the same to a finished file, open for reading and writing, without reading all of it."""
        file.seek(0)
        head = file.read(_HEAD)
        file.seek(0)
        file.write(self.whole(head))

    def close(self) -> None:
        """Free the encoder without finishing the file."""
        with self._lock:
            if not self._done:
                self._free()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _encode(self, samples: Audio) -> bytes:
        self._coded_samples += len(samples)
        return self._encoder.push(samples)

    def _free(self) -> None:
        self._done = True
        self._stretch.close()
        self._encoder.close()


def supported_encodings() -> frozenset[Encoding]:
    """Return the encodings this host can make: uncompressed ones always, others if FFmpeg was built with them."""
    bare = frozenset(_RAW) | available()
    return bare | {wav for wav, (_, inside) in _WAV.items() if inside in bare}


def open_output(format: AudioFormat, source_rate: int, speed: float = 1.0) -> Output:
    """Open the output of one response for samples at ``source_rate`` Hz.

    A sample rate the codec lacks becomes the nearest it has, a bit rate outside its range the nearest inside.
    Raises BadRequest: ``response_format`` not available here, ``sample_rate``, ``bit_rate`` or ``speed`` out of range.
    """
    encoding = format.encoding
    if encoding not in supported_encodings():
        names = ", ".join(sorted(supported_encodings()))
        raise BadRequest(
            f"response_format '{encoding}' is not available on this server; supported: {names}.",
            param="response_format",
        )
    if format.sample_rate is not None and not MIN_RATE <= format.sample_rate <= MAX_RATE:
        raise BadRequest(f"sample_rate must be between {MIN_RATE} and {MAX_RATE} Hz.", param="sample_rate")
    if format.bit_rate is not None and format.bit_rate <= 0:
        raise BadRequest("bit_rate must be a positive number of bits per second.", param="bit_rate")
    stretch = TimeStretch(source_rate, speed)
    rate = _coded_rate(format, source_rate)
    resampler = Resampler(source_rate, rate)
    return Output(encoding, stretch, resampler, _encoder(format, rate), rate, _bytes_per_s(format, rate))


def _bytes_per_s(format: AudioFormat, rate: int) -> float:
    match format.encoding:
        case Encoding.PCM | Encoding.WAV:
            return 2 * rate
        case Encoding.F32:
            return 4 * rate
        case Encoding.FLAC:
            return rate  # speech shrinks to about half
        case Encoding.MP3 | Encoding.OPUS | Encoding.AAC:
            return (CODECS[format.encoding].bit_rate(format.bit_rate) or 0) / 8
        case _:
            return rate


def _coded_rate(format: AudioFormat, source_rate: int) -> int:
    """Return the sample rate of the encoder's input, in Hz."""
    match format.encoding:
        case Encoding.MULAW | Encoding.ALAW | Encoding.WAV_MULAW | Encoding.WAV_ALAW:
            return format.sample_rate or TELEPHONE_RATE
        case Encoding.OPUS:
            # Opus records a rate that it supports as the original's. Any other has no effect: playback is at 48 kHz.
            return format.sample_rate if format.sample_rate in CODECS[Encoding.OPUS].rates else OPUS_RATE
        case Encoding.MP3 | Encoding.AAC | Encoding.FLAC:
            return CODECS[format.encoding].nearest_rate(format.sample_rate or source_rate)
        case _:
            return format.sample_rate or source_rate


def _encoder(format: AudioFormat, rate: int) -> Encoder:
    if (wav := _WAV.get(format.encoding)) is not None:
        tag, inside = wav
        return WavEncoder(tag, rate, _bare_encoder(inside, rate, format.bit_rate), unsized=format.unsized)
    return _bare_encoder(format.encoding, rate, format.bit_rate)


def _bare_encoder(encoding: Encoding, rate: int, bit_rate: int | None) -> Encoder:
    if (pack := _RAW.get(encoding)) is not None:
        return RawEncoder(pack)
    return CompressedEncoder(CODECS[encoding], rate, bit_rate)
