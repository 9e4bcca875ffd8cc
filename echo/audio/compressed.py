"""MP3, Opus, AAC, FLAC and G.711 as one continuous stream per response, by PyAV (FFmpeg) into memory."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from types import MappingProxyType
from typing import Any

import av
import av.codec
import numpy as np
from typing_extensions import override

from echo.audio.pcm import Int16, bounded, to_s16
from echo.audio.raw import Encoder
from echo.types import Audio, Encoding


def _options(**options: str) -> Mapping[str, str]:
    return MappingProxyType(options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Codec:
    """FFmpeg's names and limits for one encoding; sample rates in Hz, bit rates in bit/s."""

    container: str
    encoder: str
    sample_format: str
    rates: tuple[int, ...] = ()  # empty: any
    bit_rates: tuple[int, int] | None = None  # lowest and highest that the encoder takes
    default_bit_rate: int | None = None
    container_options: Mapping[str, str] = field(default_factory=_options)
    encoder_options: Mapping[str, str] = field(default_factory=_options)
    needs_audio: bool = True  # a stream without a frame is not valid

    def nearest_rate(self, rate: int) -> int:
        """Return the supported sample rate closest to ``rate``, the higher of two equally close."""
        return min(self.rates, key=lambda supported: (abs(supported - rate), -supported), default=rate)

    def bit_rate(self, wanted: int | None) -> int | None:
        """Clamp a bit rate to the encoder's range, None to its default; None where the codec has no bit rate."""
        if self.bit_rates is None:
            return None
        low, high = self.bit_rates
        return min(max(wanted or self.default_bit_rate or low, low), high)


def _g711(name: str) -> Codec:
    return Codec(
        container=name,
        encoder=f"pcm_{name}",
        sample_format="s16",
        container_options=_options(flush_packets="1"),
        needs_audio=False,
    )


#: flush_packets: every packet leaves at once instead of waiting in FFmpeg's 32 KiB buffer.
CODECS: Mapping[Encoding, Codec] = MappingProxyType(
    {
        # No ID3 tag and no Xing frame: both are written again at the start once the length is known. Without the bit
        # reservoir every frame decodes alone, so a stream can be joined late or cut.
        Encoding.MP3: Codec(
            container="mp3",
            encoder="libmp3lame",
            sample_format="fltp",
            rates=(8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000),
            bit_rates=(8_000, 320_000),
            default_bit_rate=128_000,
            container_options=_options(write_xing="0", id3v2_version="0", flush_packets="1"),
            encoder_options=_options(reservoir="0"),
        ),
        # Pages of 60 ms: 20 ms ones would spend a tenth of the stream on page headers.
        Encoding.OPUS: Codec(
            container="ogg",
            encoder="libopus",
            sample_format="flt",
            rates=(8_000, 12_000, 16_000, 24_000, 48_000),
            bit_rates=(6_000, 256_000),
            default_bit_rate=64_000,
            container_options=_options(page_duration="60000", flush_packets="1"),
        ),
        Encoding.AAC: Codec(
            container="adts",
            encoder="aac",
            sample_format="fltp",
            rates=(8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000),
            bit_rates=(16_000, 320_000),
            default_bit_rate=128_000,
            container_options=_options(flush_packets="1"),
        ),
        # No padding: FFmpeg would reserve 8 KiB for tags.
        Encoding.FLAC: Codec(
            container="flac",
            encoder="flac",
            sample_format="s16",
            container_options=_options(metadata_header_padding="0", flush_packets="1"),
        ),
        # G.711 is bytes without a container: one per sample, none held back.
        Encoding.MULAW: _g711("mulaw"),
        Encoding.ALAW: _g711("alaw"),
    }
)


@cache
def available() -> frozenset[Encoding]:
    """Return the compressed encodings whose encoder and container this PyAV build has."""
    return frozenset(
        encoding
        for encoding, codec in CODECS.items()
        if codec.encoder in av.codec.codecs_available and codec.container in av.formats_available
    )


class _Sink(io.RawIOBase):
    """The file that FFmpeg writes to. It is not seekable, so bytes that were sent are never changed."""

    def __init__(self) -> None:
        self._data = bytearray()

    @override
    def writable(self) -> bool:
        return True

    @override
    def write(self, data: Any) -> int:
        self._data += data
        return len(data)

    def take(self) -> bytes:
        data = bytes(self._data)
        self._data.clear()
        return data


class CompressedEncoder(Encoder):
    """Encodes samples at ``rate`` (one of the codec's) as one continuous stream of the codec.

    A stream without any samples becomes 20 ms of silence where the format is not valid without a frame.
    """

    def __init__(self, codec: Codec, rate: int, bit_rate: int | None) -> None:
        self._codec = codec
        self._rate = rate
        self._pushed = 0
        self._sink = _Sink()
        self._container = av.open(self._sink, "w", format=codec.container, options=dict(codec.container_options))
        stream = self._container.add_stream(codec.encoder, rate=rate, options=dict(codec.encoder_options))
        assert isinstance(stream, av.AudioStream)
        self._stream = stream
        context = stream.codec_context
        context.layout = "mono"
        context.format = codec.sample_format
        if (bits := codec.bit_rate(bit_rate)) is not None:
            context.bit_rate = bits

    @override
    def push(self, samples: Audio) -> bytes:
        if len(samples):
            self._encode(self._frame(samples))
        return self._sink.take()

    @override
    def finish(self) -> bytes:
        if not self._pushed:
            if not self._codec.needs_audio:
                return b""
            self._encode(self._frame(np.zeros(self._rate // 50, np.float32)))
        self._encode(None)
        self._container.close()
        return self._sink.take()

    @override
    def close(self) -> None:
        self._container.close()

    def _encode(self, frame: av.AudioFrame | None) -> None:
        self._container.mux(self._stream.encode(frame))

    def _frame(self, samples: Audio) -> av.AudioFrame:
        # The same 16 bits as pcm and wav have, so that a FLAC file decodes to equal samples.
        plane: Int16 | Audio = to_s16(samples) if self._codec.sample_format == "s16" else bounded(samples)
        frame = av.AudioFrame.from_ndarray(plane[np.newaxis], format=self._codec.sample_format, layout="mono")
        frame.sample_rate = self._rate
        frame.time_base = Fraction(1, self._rate)
        frame.pts = self._pushed
        self._pushed += len(samples)
        return frame


def with_flac_length(data: bytes, samples: int) -> bytes:
    """Write the number of samples into a whole FLAC file; as a stream it had 0, which means unknown.

    The number is the last 36 bits before the MD5 sum of STREAMINFO, the first metadata block (RFC 9639, 8.2).
    """
    start, end = 18, 26
    mask = (1 << 36) - 1
    fields = int.from_bytes(data[start:end], "big")
    known = fields & mask or min(samples, mask)  # FFmpeg has set it in a stream of one frame
    return data[:start] + (fields & ~mask | known).to_bytes(end - start, "big") + data[end:]
