import io
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import soundfile as sf

from echo.audio import g711
from echo.audio.g711 import Codes
from echo.audio.pcm import Int16

ALL = np.arange(-32_768, 32_768).astype(np.int16)

Encode = Callable[[Int16], Codes]
Decode = Callable[[Codes], Int16]
Step = Callable[[Int16], npt.NDArray[np.float64]]


def mulaw_step(samples: Int16) -> npt.NDArray[np.float64]:
    """Distance between neighbouring output values: 8 at the centre, doubling with each of the eight segments."""
    magnitude = np.minimum(np.abs(samples.astype(int)), 32_635) + 132
    step: npt.NDArray[np.float64] = 8 * 2 ** (np.floor(np.log2(magnitude)) - 7)
    return step


def alaw_step(samples: Int16) -> npt.NDArray[np.float64]:
    magnitude = np.abs(samples.astype(int))
    step: npt.NDArray[np.float64] = 16 * 2 ** np.maximum(0, np.floor(np.log2(np.maximum(magnitude, 256))) - 8)
    return step


@pytest.mark.parametrize(
    ("encode", "decode", "step", "clip"),
    [
        (g711.encode_mulaw, g711.decode_mulaw, mulaw_step, 32_124),
        (g711.encode_alaw, g711.decode_alaw, alaw_step, 32_256),
    ],
)
def test_every_sample_comes_back_within_half_a_step(encode: Encode, decode: Decode, step: Step, clip: int) -> None:
    back = decode(encode(ALL)).astype(int)
    inside = np.abs(ALL.astype(int)) <= clip
    error = np.abs(back - ALL)
    assert (error <= step(ALL) / 2)[inside].all()
    assert np.abs(back[~inside]).min() == clip  # louder samples take the last output value
    assert np.all(np.diff(back) >= 0)


@pytest.mark.parametrize(
    ("encode", "decode"), [(g711.encode_mulaw, g711.decode_mulaw), (g711.encode_alaw, g711.decode_alaw)]
)
def test_all_256_codes_are_used_and_decode_to_what_encodes_to_them(encode: Encode, decode: Decode) -> None:
    codes = np.arange(256, dtype=np.uint8)
    again = encode(decode(codes))
    assert np.array_equal(decode(again), decode(codes))
    assert len(np.unique(encode(ALL))) >= 255  # mu-law has a code for minus zero


@pytest.mark.parametrize(
    ("subtype", "encode", "decode"),
    [("ULAW", g711.encode_mulaw, g711.decode_mulaw), ("ALAW", g711.encode_alaw, g711.decode_alaw)],
)
def test_codes_decode_as_libsndfile_decodes_them(subtype: str, encode: Encode, decode: Decode) -> None:
    codes = np.arange(256, dtype=np.uint8)
    theirs, _ = sf.read(
        io.BytesIO(codes.tobytes()), dtype="int16", format="RAW", subtype=subtype, channels=1, samplerate=8000
    )
    assert np.array_equal(decode(codes), theirs)


@pytest.mark.parametrize(
    ("subtype", "encode", "decode", "step"),
    [
        ("ULAW", g711.encode_mulaw, g711.decode_mulaw, mulaw_step),
        ("ALAW", g711.encode_alaw, g711.decode_alaw, alaw_step),
    ],
)
def test_libsndfile_encodes_alike_but_for_ties(subtype: str, encode: Encode, decode: Decode, step: Step) -> None:
    file = io.BytesIO()
    sf.write(file, ALL, 8000, format="RAW", subtype=subtype)
    theirs = np.frombuffer(file.getvalue(), np.uint8)
    ours = encode(ALL)
    apart = np.abs(decode(ours).astype(int) - decode(theirs).astype(int))
    assert (apart <= step(ALL) * 1.5).all()
    assert np.count_nonzero(apart) < 0.01 * len(ALL)


def test_silence_is_ff_in_mulaw_and_d5_in_alaw() -> None:
    silence = np.zeros(160, np.float32)
    assert g711.mulaw_bytes(silence) == bytes([g711.MULAW_SILENCE]) * 160 == b"\xff" * 160
    assert g711.alaw_bytes(silence) == bytes([g711.ALAW_SILENCE]) * 160 == b"\xd5" * 160


def test_well_known_codes() -> None:
    samples = np.array([32767, -32768, 8, -8], np.int16)
    assert g711.encode_mulaw(samples).tolist() == [0x80, 0x00, 0xFE, 0x7E]
    assert g711.encode_alaw(samples).tolist() == [0xAA, 0x2A, 0xD5, 0x55]


def test_tables_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        g711._MULAW_TABLE[0] = 1
