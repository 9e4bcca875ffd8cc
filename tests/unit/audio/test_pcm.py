import numpy as np
import pytest

from echo.audio.pcm import float_bytes, from_bytes, to_bytes, to_s16


def test_values_are_limited_and_truncated_toward_zero() -> None:
    samples = np.array([0.0, 1.0, -1.0, 1.7, -9.0, 0.5, -0.5, 1.9 / 32767, -1.9 / 32767], np.float32)
    assert to_s16(samples).tolist() == [0, 32767, -32767, 32767, -32767, 16383, -16383, 1, -1]


def test_not_a_number_becomes_silence_and_infinity_full_scale() -> None:
    samples = np.array([np.nan, np.inf, -np.inf, 0.25], np.float32)
    assert to_s16(samples).tolist() == [0, 32767, -32767, 8191]


def test_bytes_are_little_endian_pairs() -> None:
    assert to_bytes(np.array([256.0, -2.0], np.float32) / np.float32(32767)) == b"\x00\x01\xfe\xff"
    assert to_bytes(np.zeros(0, np.float32)) == b""


def test_reading_back_is_within_one_step() -> None:
    samples = np.linspace(-1, 1, 10_001, dtype=np.float32)
    assert np.abs(from_bytes(to_bytes(samples)) - samples).max() <= 1 / 32767


@pytest.mark.parametrize("order", [">f4", "<f4"])
def test_float_bytes_are_the_samples_unchanged(order: str) -> None:
    samples = np.array([0.1, -2.5, 3e-9], order)
    assert np.frombuffer(float_bytes(samples), "<f4").tolist() == samples.tolist()
