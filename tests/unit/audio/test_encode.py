import io
import struct
import threading
import wave
from collections.abc import Callable, Mapping
from typing import Any

import av
import numpy as np
import pytest
import soundfile as sf

from echo.audio import encode
from echo.audio.encode import MEDIA_TYPES, Output, open_output, supported_encodings
from echo.audio.pcm import from_bytes, to_s16
from echo.errors import BadRequest
from echo.types import Audio, AudioFormat, Encoding

RATE = 44_100
#: By how many samples a decoder comes out longer, at least and at most: MP3 and ADTS cannot say how much of their first
#: frames is the encoder's delay (LAME 1105 samples, AAC 1024) and how much of the last frame is padding.
PADDING: Mapping[Encoding, Callable[[int], tuple[int, int]]] = {
    Encoding.MP3: lambda rate: (1105, 2 * 1152 if rate >= 32_000 else 3 * 576),
    Encoding.AAC: lambda rate: (1024, 2 * 1024),
}
CODED = [Encoding.MP3, Encoding.OPUS, Encoding.AAC, Encoding.FLAC]
FILES = [*CODED, Encoding.WAV, Encoding.WAV_MULAW, Encoding.WAV_ALAW]


def speech(seconds: float, rate: int = RATE) -> Audio:
    """Something like speech in level and spectrum, with its own last 20 ms at 2 kHz."""
    time = np.arange(int(seconds * rate)) / rate
    samples = 0.1 * np.sum([np.sin(2 * np.pi * 130 * k * time + k) / k for k in range(1, 9)], axis=0)
    end = min(int(0.02 * rate), len(samples))
    samples[len(samples) - end :] = 0.4 * np.sin(2 * np.pi * 2000 * time[:end]) * np.hanning(end)
    return np.asarray(samples, np.float32)


def encoded(
    samples: Audio, format: AudioFormat, speed: float = 1.0, size: int = 4410, rate: int = RATE
) -> tuple[bytes, Output]:
    with open_output(format, rate, speed) as output:
        parts = [output.push(samples[start : start + size]) for start in range(0, len(samples), size)]
        return b"".join([*parts, output.finish()]), output


def decoded(data: bytes) -> tuple[Audio, int]:
    """Samples and rate, by FFmpeg; it does not recognize two frames of ADTS unless it is told."""
    adts = data[:1] == b"\xff" and data[1] & 0xF6 == 0xF0
    with av.open(io.BytesIO(data), "r", format="aac" if adts else None) as container:
        stream = container.streams.audio[0]
        frames = [frame.to_ndarray() for frame in container.decode(stream)]
        rate = stream.codec_context.sample_rate
        planes = [f.reshape(1, -1)[0] / (32768.0 if f.dtype == np.int16 else 1.0) for f in frames]
        return np.concatenate(planes or [np.zeros(0)]).astype(np.float32), rate


@pytest.mark.parametrize("encoding", Encoding)
def test_every_encoding_works_here(encoding: Encoding) -> None:
    assert encoding in supported_encodings()
    assert encoding in MEDIA_TYPES


def test_pcm_is_the_samples_piece_by_piece() -> None:
    samples = speech(0.5)
    output = open_output(AudioFormat(), RATE)
    assert output.push(samples[:999]) == to_s16(samples[:999]).tobytes()
    assert output.push(samples[999:]) == to_s16(samples[999:]).tobytes()
    assert output.finish() == b""
    assert (output.sample_rate, output.media_type) == (RATE, "audio/pcm")


def test_f32_is_the_samples_unchanged() -> None:
    data, _ = encoded(speech(0.1) * 9, AudioFormat(encoding=Encoding.F32))
    assert np.array_equal(np.frombuffer(data, "<f4"), speech(0.1) * 9)


def test_wav_pcm_and_flac_hold_the_same_samples() -> None:
    samples = speech(0.7) * 3  # some of it beyond full scale
    pcm, _ = encoded(samples, AudioFormat())
    wav, _ = encoded(samples, AudioFormat(encoding=Encoding.WAV))
    flac, _ = encoded(samples, AudioFormat(encoding=Encoding.FLAC))
    assert wav[44:] == pcm
    assert (decoded(flac)[0] * 32768).astype("<i2").tobytes() == pcm


@pytest.mark.parametrize("rate", [None, 16_000, 24_000, 48_000])
@pytest.mark.parametrize("seconds", [0.03, 0.5, 1.234])
@pytest.mark.parametrize("encoding", FILES)
def test_decoding_gives_everything_back(encoding: Encoding, seconds: float, rate: int | None) -> None:
    samples = speech(seconds)
    data, output = encoded(samples, AudioFormat(encoding=encoding, sample_rate=rate))
    back, actual = decoded(data)
    assert actual == output.sample_rate
    extra = len(back) - round(len(samples) * actual / RATE)
    least, most = PADDING[encoding](actual) if encoding in PADDING else (0, 0)
    assert least - 1 <= extra <= most + 1  # resampling rounds to a sample
    assert output.duration_s == pytest.approx(seconds, abs=1e-4)


@pytest.mark.parametrize("rate", [8_000, 24_000, 44_100])
@pytest.mark.parametrize("encoding", CODED)
def test_the_last_sound_is_heard_whole(encoding: Encoding, rate: int | None) -> None:
    samples = speech(0.6)
    data, _ = encoded(samples, AudioFormat(encoding=encoding, sample_rate=rate))
    back, actual = decoded(data)
    tone = np.exp(-2j * np.pi * 2000 * np.arange(int(0.02 * actual)) / actual) * np.hanning(int(0.02 * actual))
    found = np.abs(np.correlate(back[-int(0.2 * actual) :].astype(complex), tone, "valid"))
    before = np.abs(np.correlate(back[: int(0.3 * actual)].astype(complex), tone, "valid"))
    energy = 0.4 / 2 * np.sum(np.hanning(len(tone)) ** 2)
    assert found.max() > 0.7 * energy > 3 * before.max()


@pytest.mark.slow
@pytest.mark.parametrize("rate", [16_000, 24_000, 44_100, 48_000])
@pytest.mark.parametrize("encoding", [*CODED, Encoding.PCM, Encoding.MULAW, Encoding.ALAW, Encoding.F32])
def test_bytes_flow_within_a_fifth_of_a_second(encoding: Encoding, rate: int | None) -> None:
    samples = speech(2.0)
    with open_output(AudioFormat(encoding=encoding, sample_rate=rate), RATE) as output:
        step = RATE // 50
        waited = longest = 0
        for start in range(0, len(samples), step):
            waited = 0 if output.push(samples[start : start + step]) else waited + 1
            longest = max(longest, waited)
    assert (longest + 1) * step / RATE <= 0.2


@pytest.mark.parametrize("encoding", [Encoding.WAV, Encoding.WAV_MULAW, Encoding.WAV_ALAW])
def test_a_sized_wav_comes_at_the_end_and_an_unsized_one_at_once(encoding: Encoding) -> None:
    samples = speech(0.2)
    with open_output(AudioFormat(encoding=encoding), RATE) as output:
        assert output.push(samples) == b""
    with open_output(AudioFormat(encoding=encoding, unsized=True), RATE) as output:
        assert output.push(samples)[:8] == b"RIFF\xff\xff\xff\xff"
        assert output.finish()[:4] != b"RIFF"


def test_a_sized_wav_says_its_true_length() -> None:
    samples = speech(0.321)
    data, _ = encoded(samples, AudioFormat(encoding=Encoding.WAV, sample_rate=24_000))
    with wave.open(io.BytesIO(data)) as file:
        assert abs(file.getnframes() - 0.321 * 24_000) <= 1
        assert file.getframerate() == 24_000


@pytest.mark.parametrize(("encoding", "subtype"), [(Encoding.MULAW, "ULAW"), (Encoding.ALAW, "ALAW")])
def test_g711_is_8_khz_unless_asked_otherwise(encoding: Encoding, subtype: str) -> None:
    samples = speech(1.0)
    data, output = encoded(samples, AudioFormat(encoding=encoding))
    assert output.sample_rate == 8_000
    assert abs(len(data) - 8_000) <= 1
    reference, _ = encoded(samples, AudioFormat(sample_rate=8_000))
    raw: dict[str, Any] = {"format": "RAW", "subtype": subtype, "channels": 1, "samplerate": 8_000}
    error = sf.read(io.BytesIO(data), **raw)[0] - from_bytes(reference)
    assert np.sqrt(np.mean(error**2)) < 0.01
    assert open_output(AudioFormat(encoding=encoding, sample_rate=16_000), RATE).sample_rate == 16_000


@pytest.mark.parametrize("encoding", Encoding)
def test_the_engines_rate_is_kept_unless_the_codec_forbids(encoding: Encoding) -> None:
    rates = {Encoding.OPUS: 48_000} | dict.fromkeys(e for e in Encoding if e.endswith("law"))
    for source in (22_050, 24_000, 44_100):
        wanted = rates.get(encoding, source) or 8_000
        with open_output(AudioFormat(encoding=encoding), source) as output:
            assert output.sample_rate == wanted


@pytest.mark.parametrize("encoding", [Encoding.MP3, Encoding.AAC])
@pytest.mark.parametrize(("asked", "given"), [(44_100, 44_100), (40_000, 44_100), (9_000, 8_000), (30_000, 32_000)])
def test_a_rate_the_codec_lacks_becomes_the_nearest(encoding: Encoding, asked: int | None, given: int) -> None:
    data, output = encoded(speech(0.1), AudioFormat(encoding=encoding, sample_rate=asked))
    assert output.sample_rate == given == decoded(data)[1]


@pytest.mark.parametrize(("asked", "noted"), [(None, 48_000), (24_000, 24_000), (44_100, 48_000), (8_000, 8_000)])
def test_opus_plays_at_48_khz_and_notes_the_rate_that_was_asked_for(asked: int | None, noted: int) -> None:
    data, output = encoded(speech(0.4), AudioFormat(encoding=Encoding.OPUS, sample_rate=asked))
    head = data.index(b"OpusHead")
    assert struct.unpack("<I", data[head + 12 : head + 16]) == (noted,)
    assert output.sample_rate == 48_000 == decoded(data)[1]


@pytest.mark.parametrize("encoding", [Encoding.MP3, Encoding.OPUS, Encoding.AAC])
def test_the_bit_rate_is_honoured(encoding: Encoding) -> None:
    samples = np.random.default_rng(3).standard_normal(3 * RATE).astype(np.float32) * 0.2
    for bit_rate in (32_000, 64_000, 128_000):
        data, output = encoded(samples, AudioFormat(encoding=encoding, bit_rate=bit_rate))
        assert len(data) * 8 / output.duration_s == pytest.approx(bit_rate, rel=0.35)


@pytest.mark.parametrize("bit_rate", [1, 1_000, 10_000_000])
@pytest.mark.parametrize("encoding", CODED)
def test_a_bit_rate_beyond_the_codecs_range_is_its_limit(encoding: Encoding, bit_rate: int) -> None:
    data, _ = encoded(speech(0.2), AudioFormat(encoding=encoding, bit_rate=bit_rate))
    assert len(decoded(data)[0]) >= 0.2 * RATE


@pytest.mark.parametrize("encoding", FILES)
def test_no_samples_at_all_is_still_a_valid_file(encoding: Encoding) -> None:
    data, _ = encoded(speech(0), AudioFormat(encoding=encoding))
    back, _ = decoded(data)
    assert len(back) < 0.1 * RATE
    assert np.abs(back).max(initial=0) < 1e-3


def test_mp3_starts_with_a_frame_and_is_one_stream() -> None:
    data, _ = encoded(speech(1.0), AudioFormat(encoding=Encoding.MP3))
    assert data[0] == 0xFF
    assert data[1] & 0xE0 == 0xE0
    for marker in (b"ID3", b"Xing", b"Info", b"LAME3"):
        assert marker not in data[:400]


def test_ogg_is_one_logical_stream() -> None:
    data, _ = encoded(speech(1.0), AudioFormat(encoding=Encoding.OPUS))
    serials = {data[i + 14 : i + 18] for i in range(len(data)) if data.startswith(b"OggS\0", i)}
    assert len(serials) == 1
    assert data.count(b"OpusHead") == 1


@pytest.mark.parametrize("seconds", [0.01, 0.8])
def test_a_collected_flac_says_its_length_and_libsndfile_reads_it(seconds: float) -> None:
    samples = speech(seconds)
    data, output = encoded(samples, AudioFormat(encoding=Encoding.FLAC))
    back, rate = sf.read(io.BytesIO(output.whole(data)), dtype="int16")
    assert rate == RATE
    assert np.array_equal(back, to_s16(samples))


def test_a_collected_flac_without_samples_is_read_as_its_moment_of_silence() -> None:
    data, output = encoded(speech(0), AudioFormat(encoding=Encoding.FLAC))
    assert len(sf.read(io.BytesIO(output.whole(data)))[0]) == RATE // 50


def test_whole_leaves_other_formats_as_they_are() -> None:
    data, output = encoded(speech(0.1), AudioFormat(encoding=Encoding.MP3))
    assert output.whole(data) is data


@pytest.mark.parametrize("encoding", FILES)
@pytest.mark.parametrize("speed", [0.5, 2.0])
def test_speed_changes_the_length_in_any_format(encoding: Encoding, speed: float) -> None:
    data, output = encoded(speech(1.0), AudioFormat(encoding=encoding), speed=speed)
    back, rate = decoded(data)
    assert len(back) / rate == pytest.approx(1 / speed, abs=0.1)
    assert output.duration_s == pytest.approx(1 / speed, abs=1e-3)


@pytest.mark.parametrize("encoding", Encoding)
def test_an_abandoned_output_can_be_closed_at_any_time_and_then_makes_nothing(encoding: Encoding) -> None:
    for pushed in (None, speech(0), speech(0.3)):
        output = open_output(AudioFormat(encoding=encoding, sample_rate=16_000), RATE, speed=1.3)
        if pushed is not None:
            output.push(pushed)
        output.close()
        output.close()
        assert output.push(speech(0.3)) == b""
        assert output.finish() == b""


def test_leaving_the_context_closes() -> None:
    with open_output(AudioFormat(encoding=Encoding.MP3), RATE) as output:
        output.push(speech(0.3))
    assert output.finish() == b""


def test_close_in_another_thread_waits_for_a_push() -> None:
    output = open_output(AudioFormat(encoding=Encoding.MP3), RATE)
    begun = threading.Event()

    def push_on() -> None:
        while output.push(speech(1.0)):
            begun.set()

    worker = threading.Thread(target=push_on, daemon=True)
    worker.start()
    assert begun.wait(60)
    output.close()
    worker.join(60)
    assert not worker.is_alive()


@pytest.mark.parametrize("rate", [7_999, 48_001, 0, -1])
def test_a_sample_rate_out_of_range_is_refused_by_name(rate: int | None) -> None:
    with pytest.raises(BadRequest, match="between 8000 and 48000") as refused:
        open_output(AudioFormat(sample_rate=rate), RATE)
    assert refused.value.param == "sample_rate"


def test_a_bit_rate_below_one_is_refused_by_name() -> None:
    with pytest.raises(BadRequest, match="bit_rate") as refused:
        open_output(AudioFormat(encoding=Encoding.MP3, bit_rate=0), RATE)
    assert refused.value.param == "bit_rate"


def test_an_encoding_this_build_lacks_is_refused_with_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "available", lambda: frozenset({Encoding.FLAC}))
    assert Encoding.MP3 not in supported_encodings()
    with pytest.raises(BadRequest, match=r"'mp3' is not available.*flac.*pcm.*wav") as refused:
        open_output(AudioFormat(encoding=Encoding.MP3), RATE)
    assert refused.value.param == "response_format"


def test_the_result_does_not_depend_on_the_sizes_of_the_pieces() -> None:
    samples = speech(0.9)
    for encoding in (Encoding.MP3, Encoding.AAC, Encoding.FLAC, Encoding.MULAW):
        format = AudioFormat(encoding=encoding, sample_rate=24_000)
        assert encoded(samples, format, size=441)[0] == encoded(samples, format, size=30_000)[0]
