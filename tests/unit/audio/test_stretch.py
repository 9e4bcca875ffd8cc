import numpy as np
import pytest

from echo.audio.stretch import TimeStretch
from echo.errors import BadRequest
from echo.types import Audio
from train.evaluation.measure import click_score, pitch_hz

RATE = 24_000
SPEEDS = [0.25, 0.4, 0.7, 0.95, 1.05, 1.5, 2.0, 3.1, 4.0]


def voice(seconds: float, hertz: float = 140.0) -> Audio:
    """A harmonic tone with a slowly changing level, faded at both ends."""
    time = np.arange(int(seconds * RATE)) / RATE
    tone = np.sum([np.sin(2 * np.pi * hertz * k * time + k) / k for k in range(1, 7)], axis=0)
    level = np.minimum(1, 50 * np.minimum(time, seconds - time)) * (0.7 + 0.3 * np.sin(2 * np.pi * 2.5 * time))
    samples: Audio = (0.2 * tone * level).astype(np.float32)
    return samples


def stretched(samples: Audio, speed: float, sizes: list[int] | None = None) -> Audio:
    stretch = TimeStretch(RATE, speed)
    parts, start = [], 0
    for size in sizes or [len(samples)]:
        parts.append(stretch.push(samples[start : start + size]))
        start += size
    parts.append(stretch.push(samples[start:]))
    return np.concatenate([*parts, stretch.finish()])


@pytest.mark.parametrize("speed", SPEEDS)
def test_duration_is_divided_by_the_speed(speed: float) -> None:
    for seconds in (0.3, 2.0):
        samples = voice(seconds)
        assert abs(len(stretched(samples, speed)) - len(samples) / speed) <= 0.02 * len(samples) / speed


@pytest.mark.parametrize("speed", SPEEDS)
def test_pitch_stays(speed: float) -> None:
    samples = voice(2.0)
    assert pitch_hz(stretched(samples, speed), RATE) == pytest.approx(pitch_hz(samples, RATE), rel=0.01)


@pytest.mark.parametrize("speed", SPEEDS)
def test_pieces_of_any_size_give_what_the_whole_gives(speed: float) -> None:
    samples = voice(1.5)
    sizes = np.random.default_rng(7).integers(0, 3000, 20).tolist()
    assert np.array_equal(stretched(samples, speed, sizes), stretched(samples, speed))


@pytest.mark.parametrize("speed", SPEEDS)
def test_no_click_anywhere(speed: float) -> None:
    silence = np.zeros(RATE // 10, np.float32)
    samples = np.concatenate([silence, voice(1.5), silence])
    assert click_score(stretched(samples, speed, [480] * 80), RATE) < 3


@pytest.mark.parametrize("speed", SPEEDS)
def test_an_input_that_ends_with_a_sound_ends_without_a_click(speed: float) -> None:
    silence = np.zeros(RATE // 10, np.float32)
    for cut in range(3000, 3400, 40):
        samples = np.concatenate([silence, voice(1.0)[:-cut]])
        samples[-120:] *= np.linspace(1, 0, 120, dtype=np.float32) ** 2  # as the joiner leaves it
        assert click_score(np.concatenate([stretched(samples, speed), silence]), RATE) < 3


@pytest.mark.parametrize("speed", SPEEDS)
def test_the_end_is_not_lost(speed: float) -> None:
    samples = np.concatenate([voice(1.0), np.zeros(RATE // 50, np.float32)])
    marker = (0.5 * np.sin(2 * np.pi * 5000 * np.arange(RATE // 20) / RATE)).astype(np.float32)
    got = stretched(np.concatenate([samples, marker, np.zeros(RATE // 10, np.float32)]), speed)
    window = RATE // 200
    frames = got[: len(got) // window * window].reshape(-1, window)
    strength = np.abs(frames @ np.exp(-2j * np.pi * 5000 * np.arange(window) / RATE)) * 2 / window
    heard_s = np.count_nonzero(strength > 0.25) * window / RATE
    assert heard_s > 0.4 * len(marker) / RATE / speed


@pytest.mark.parametrize("count", [0, 1, 200])
@pytest.mark.parametrize("speed", [0.25, 4.0])
def test_even_the_shortest_input_has_its_length(count: int, speed: float) -> None:
    assert len(stretched(np.full(count, 0.1, np.float32), speed)) == round(count / speed)


def test_speed_one_passes_the_very_samples() -> None:
    stretch = TimeStretch(RATE, 1.0)
    samples = voice(0.1)
    assert stretch.push(samples) is samples
    assert len(stretch.finish()) == 0


@pytest.mark.parametrize("speed", [0.2, 4.1, -1.0, float("nan"), float("inf")])
def test_a_speed_out_of_range_is_refused_by_name(speed: float) -> None:
    with pytest.raises(BadRequest, match=r"speed must be between 0\.25 and 4\.0") as refused:
        TimeStretch(RATE, speed)
    assert refused.value.param == "speed"
