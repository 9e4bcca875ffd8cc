"""G.711 as clients get it: FFmpeg's encoders, read back by libsndfile."""

import io

import numpy as np
import numpy.typing as npt
import pytest
import soundfile as sf

from echo.audio.encode import open_output
from echo.audio.pcm import FULL_SCALE, Int16
from echo.types import Audio, AudioFormat, Encoding

RATE = 8_000
#: Every 16-bit sample that the quantiser makes.
ALL = np.arange(-FULL_SCALE, FULL_SCALE + 1).astype(np.int16)
#: The middle of each step, so that no rounding moves it to a neighbour.
FLOATS = (np.sign(ALL) * (np.abs(ALL.astype(np.float64)) + 0.5) / FULL_SCALE).astype(np.float32)
SUBTYPES = {Encoding.MULAW: "ULAW", Encoding.ALAW: "ALAW"}


def coded(samples: Audio, encoding: Encoding) -> bytes:
    with open_output(AudioFormat(encoding=encoding), RATE) as output:
        return output.push(samples) + output.finish()


def heard(codes: bytes, encoding: Encoding) -> Int16:
    file = io.BytesIO(codes)
    samples, _ = sf.read(file, dtype="int16", format="RAW", subtype=SUBTYPES[encoding], channels=1, samplerate=RATE)
    return np.asarray(samples, np.int16)


def steps(encoding: Encoding) -> npt.NDArray[np.float64]:
    """Distance between neighbouring output values at each sample, from the segments of G.711."""
    magnitude = np.abs(ALL.astype(float))
    if encoding is Encoding.MULAW:
        result: npt.NDArray[np.float64] = 8 * 2 ** (np.floor(np.log2(np.minimum(magnitude, 32_635) + 132)) - 7)
    else:
        result = 16 * 2 ** np.maximum(0, np.floor(np.log2(np.maximum(magnitude, 256))) - 8)
    return result


@pytest.mark.parametrize(("encoding", "loudest"), [(Encoding.MULAW, 32_124), (Encoding.ALAW, 32_256)])
def test_every_sample_comes_back_within_half_a_step(encoding: Encoding, loudest: int) -> None:
    back = heard(coded(FLOATS, encoding), encoding).astype(int)
    inside = np.abs(ALL.astype(int)) <= loudest
    # The segments' borders lie between two steps of different size: there the larger one's half holds.
    assert (np.abs(back - ALL) <= steps(encoding) / 2 + 1)[inside].mean() > 0.99
    assert (np.abs(back - ALL) <= steps(encoding))[inside].all()
    assert np.abs(back[~inside]).min() == loudest  # louder samples take the last output value
    assert np.all(np.diff(back) >= 0)


@pytest.mark.parametrize(("encoding", "silent"), [(Encoding.MULAW, 0xFF), (Encoding.ALAW, 0xD5)])
def test_a_telephone_frame_of_silence_leaves_at_once(encoding: Encoding, silent: int) -> None:
    frame = np.zeros(RATE // 50, np.float32)
    with open_output(AudioFormat(encoding=encoding), RATE) as output:
        assert [output.push(frame) for _ in range(3)] == [bytes([silent]) * 160] * 3
        assert output.finish() == b""


def test_well_known_codes() -> None:
    samples = (np.array([32767, -32767, 8.5, -8.5]) / FULL_SCALE).astype(np.float32)
    assert list(coded(samples, Encoding.MULAW)) == [0x80, 0x00, 0xFE, 0x7E]
    assert list(coded(samples, Encoding.ALAW)) == [0xAA, 0x2A, 0xD5, 0x55]


@pytest.mark.parametrize("encoding", SUBTYPES)
def test_no_samples_are_no_bytes(encoding: Encoding) -> None:
    assert coded(np.zeros(0, np.float32), encoding) == b""
