from collections.abc import Iterator

import numpy as np
import pytest

from echo.audio.resample import Resampler, resample
from echo.types import Audio

RATES = [(44_100, 8_000), (44_100, 24_000), (44_100, 48_000), (24_000, 44_100), (48_000, 16_000), (44_100, 22_050)]


def pieces(samples: Audio, rng: np.random.Generator, longest: int) -> Iterator[Audio]:
    start = 0
    while start < len(samples):
        stop = start + int(rng.integers(0, longest))
        yield samples[start:stop]
        start = stop


def tone(hertz: float, rate: int, seconds: float = 0.5) -> Audio:
    samples: Audio = np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate).astype(np.float32)
    return samples


@pytest.mark.parametrize(("source", "target"), RATES)
@pytest.mark.parametrize("longest", [3, 700, 20_000])
def test_pieces_of_any_size_give_what_the_whole_gives(source: int, target: int, longest: int) -> None:
    rng = np.random.default_rng(longest)
    samples = rng.standard_normal(300 * longest if longest == 3 else 30_000).astype(np.float32)
    stream = Resampler(source, target)
    parts = [stream.push(piece) for piece in pieces(samples, rng, longest)]
    assert np.array_equal(np.concatenate([*parts, stream.finish()]), resample(samples, source, target))


@pytest.mark.parametrize(("source", "target"), RATES)
@pytest.mark.parametrize("count", [0, 1, 2, 777, 44_100])
def test_length_scales_with_the_rate(source: int, target: int, count: int) -> None:
    assert abs(len(resample(np.ones(count, np.float32), source, target)) - round(count * target / source)) <= 1


def test_equal_rates_pass_the_very_samples() -> None:
    samples = tone(440, 44_100)
    stream = Resampler(44_100, 44_100)
    assert stream.push(samples) is samples
    assert len(stream.finish()) == 0


def test_a_tone_above_the_new_band_is_gone_instead_of_folded() -> None:
    folded = resample(tone(5_000, 44_100), 44_100, 8_000)
    assert np.abs(folded[400:-400]).max() < 1e-4  # -80 dB; the ends hold the switching on and off


@pytest.mark.parametrize("target", [8_000, 24_000, 48_000])
def test_a_tone_inside_the_band_keeps_level_and_place(target: int) -> None:
    got = resample(tone(1_000, 44_100), 44_100, target)
    wanted = tone(1_000, target)
    n = min(len(got), len(wanted))
    assert np.abs(got[:n] - wanted[:n])[target // 20 : -target // 20].max() < 1e-3
