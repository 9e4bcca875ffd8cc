from __future__ import annotations

import pytest

from echo.model.sampling.schedule import make_schedule
from echo.types import BlockSpec, SamplerParams


def spec(steps: int, init_scale: float = 0.999) -> BlockSpec:
    return BlockSpec(size=32, steps=steps, init_scale=init_scale)


@pytest.mark.parametrize(("steps", "guided"), [(5, 3), (8, 4), (10, 5), (15, 8), (20, 10), (30, 15), (40, 20)])
def test_guided_steps_of_the_default_window(steps: int, guided: int) -> None:
    schedule = make_schedule(spec(steps), SamplerParams())
    assert schedule.steps == steps
    assert schedule.guided == (True,) * guided + (False,) * (steps - guided)


def test_times_run_from_init_scale_to_zero() -> None:
    times = make_schedule(spec(4, 0.95), SamplerParams()).times
    assert times == pytest.approx((0.95, 0.7125, 0.475, 0.2375, 0.0))
    assert times[-1] == 0.0


def test_window_bounds_are_included_and_compared_in_single_precision() -> None:
    # The float32 nearest to 0.999 is above 0.999: an exact comparison would leave the first step out.
    assert make_schedule(spec(3), SamplerParams()).times[0] > 0.999
    guided = make_schedule(spec(3), SamplerParams(cfg_min_t=0.999, cfg_max_t=0.999)).guided
    assert guided == (True, False, False)


@pytest.mark.parametrize(
    ("min_t", "steps", "restored"),
    [
        (0.6, 2, True),  # times 0.999, 0.749, 0.4995, 0.249, 0: passed in step 1
        (0.9, 1, True),
        (0.2, 4, True),  # passed in the last step: all are scaled, yet restored
        (0.0, 4, False),  # never passed
        (1.0, 4, False),  # above the first time: never passed either
        (None, 4, False),
    ],
)
def test_speaker_scaling_ends_with_the_step_that_passes_its_bound(
    min_t: float | None, steps: int, restored: bool
) -> None:
    params = SamplerParams(speaker_kv_scale=1.5, speaker_kv_min_t=min_t)
    schedule = make_schedule(spec(4), params)
    assert (schedule.scaled_steps, schedule.speaker_restored) == (steps, restored)


def test_without_a_scale_no_step_is_scaled() -> None:
    assert make_schedule(spec(4), SamplerParams(speaker_kv_min_t=0.5)).scaled_steps == 0
