import io
import struct
import wave
from collections.abc import Iterable

import numpy as np
import pytest
import soundfile as sf

from echo.audio.compressed import CODECS, CompressedEncoder
from echo.audio.pcm import to_bytes, to_s16
from echo.audio.raw import Encoder, RawEncoder
from echo.audio.wav import UNKNOWN_SIZE, FormatTag, WavEncoder, header, pcm_file
from echo.types import Audio, Encoding

SAMPLES = (0.5 * np.sin(np.arange(2001) * 0.1)).astype(np.float32)
G711 = {FormatTag.MULAW: Encoding.MULAW, FormatTag.ALAW: Encoding.ALAW}


def bare(tag: FormatTag, rate: int) -> Encoder:
    """What is inside of the file."""
    return RawEncoder(to_bytes) if tag is FormatTag.PCM else CompressedEncoder(CODECS[G711[tag]], rate, None)


def whole(tag: FormatTag, pieces: Iterable[Audio], *, unsized: bool = False, rate: int = 24_000) -> bytes:
    encoder = WavEncoder(tag, rate, bare(tag, rate), unsized=unsized)
    return b"".join([*(encoder.push(piece) for piece in pieces), encoder.finish()])


def test_pcm_header_is_the_canonical_44_bytes() -> None:
    fields = struct.unpack("<4sI4s4sIHHIIHH4sI", header(FormatTag.PCM, 44_100, 1000))
    assert fields == (b"RIFF", 1036, b"WAVE", b"fmt ", 16, 1, 1, 44_100, 88_200, 2, 16, b"data", 1000)


def test_pcm_file_reads_back_sample_by_sample() -> None:
    with wave.open(io.BytesIO(whole(FormatTag.PCM, np.array_split(SAMPLES, 7)))) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (24_000, 1, 2)
        assert file.getnframes() == len(SAMPLES)
        assert np.array_equal(np.frombuffer(file.readframes(9999), "<i2"), to_s16(SAMPLES))


@pytest.mark.parametrize(("tag", "number", "subtype"), [(FormatTag.MULAW, 7, "ULAW"), (FormatTag.ALAW, 6, "ALAW")])
def test_g711_file_has_its_tag_a_fact_chunk_and_true_sizes(tag: FormatTag, number: int, subtype: str) -> None:
    data = whole(tag, [SAMPLES], rate=8000)
    riff, form, fmt_size, actual_tag, channels, rate, byte_rate, align, bits, extra = struct.unpack(
        "<4xI4s4xIHHIIHHH", data[:38]
    )
    assert (form, fmt_size, actual_tag, channels, rate) == (b"WAVE", 18, number, 1, 8000)
    assert (byte_rate, align, bits, extra) == (8000, 1, 8, 0)
    assert struct.unpack("<4sII4sI", data[38:58]) == (b"fact", 4, len(SAMPLES), b"data", len(SAMPLES))
    assert riff == len(data) - 8
    assert len(data) % 2 == 0  # odd data gets a pad byte
    with sf.SoundFile(io.BytesIO(data)) as file:
        assert (file.subtype, file.frames) == (subtype, len(SAMPLES))


@pytest.mark.parametrize("tag", FormatTag)
def test_nothing_leaves_before_the_end_when_sizes_are_true(tag: FormatTag) -> None:
    encoder = WavEncoder(tag, 8000, bare(tag, 8000), unsized=False)
    assert encoder.push(SAMPLES) == b""
    assert len(encoder.finish()) > len(SAMPLES)


@pytest.mark.parametrize("tag", FormatTag)
def test_unsized_sends_its_header_with_the_first_samples_and_only_once(tag: FormatTag) -> None:
    encoder = WavEncoder(tag, 8000, bare(tag, 8000), unsized=True)
    top = header(tag, 8000, None)
    inside = bare(tag, 8000)
    assert encoder.push(SAMPLES[:100]) == top + inside.push(SAMPLES[:100])
    assert encoder.push(SAMPLES[100:]) == inside.push(SAMPLES[100:])
    assert encoder.finish() == b""
    assert struct.unpack("<4xI", top[:8]) == struct.unpack("<I", top[-4:]) == (UNKNOWN_SIZE,)


@pytest.mark.parametrize("unsized", [False, True])
@pytest.mark.parametrize("tag", FormatTag)
def test_no_samples_is_a_header(tag: FormatTag, unsized: bool) -> None:
    assert whole(tag, [], unsized=unsized, rate=8000) == header(tag, 8000, None if unsized else 0)


def test_a_clip_is_written_as_the_encoder_writes_it() -> None:
    assert pcm_file(SAMPLES, 24_000) == whole(FormatTag.PCM, [SAMPLES])


def test_sizes_beyond_four_gigabytes_are_said_to_be_unknown() -> None:
    assert header(FormatTag.PCM, 44_100, 5 << 30)[4:8] == header(FormatTag.PCM, 44_100, 5 << 30)[-4:] == b"\xff" * 4
