"""The time grid of a block, decided on the host before the first step: nothing is read back from the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from echo.types import BlockSpec, SamplerParams


@dataclass(frozen=True, slots=True)
class Schedule:
    """Flow times and switches of the Euler steps i = 0 … steps - 1, each from times[i] to times[i + 1].

    times             steps + 1 values from init_scale down to 0, exact float32 values
    guided            whether step i runs the guidance rows
    scaled_steps      how many steps, from the first, see the scaled speaker K/V
    speaker_restored  whether a step passed the time from which on the speaker K/V is its own again
    """

    times: tuple[float, ...]
    guided: tuple[bool, ...]
    scaled_steps: int
    speaker_restored: bool

    @property
    def steps(self) -> int:
        """Number of Euler steps."""
        return len(self.guided)


def make_schedule(spec: BlockSpec, params: SamplerParams) -> Schedule:
    """The schedule of one block.

    Times are ``init_scale * linspace(1, 0)``; 0.999 rather than 1 keeps 1 - t > 0 for the rescaling.
    A step is guided when ``cfg_min_t <= t <= cfg_max_t``. The speaker K/V is scaled up to and including the step
    that passes ``speaker_kv_min_t``; a bound that no step passes (or none given) scales the whole run.
    """
    grid = torch.linspace(1, 0, spec.steps + 1, dtype=torch.float32, device="cpu") * spec.init_scale
    times = tuple(grid.tolist())
    low, high = _float32(params.cfg_min_t), _float32(params.cfg_max_t)
    guided = tuple(low <= t <= high for t in times[:-1])
    scaled_steps, restored = _speaker_scaling(times, params)
    return Schedule(times=times, guided=guided, scaled_steps=scaled_steps, speaker_restored=restored)


def _speaker_scaling(times: tuple[float, ...], params: SamplerParams) -> tuple[int, bool]:
    steps = len(times) - 1
    if params.speaker_kv_scale is None:
        return 0, False
    if params.speaker_kv_min_t is not None:
        bound = _float32(params.speaker_kv_min_t)
        for i in range(steps):
            if times[i] >= bound > times[i + 1]:
                return i + 1, True
    return steps, False


def _float32(value: float) -> float:
    """Round as the times are rounded, so that a bound equal to a time compares equal."""
    rounded: float = torch.tensor(value, dtype=torch.float32, device="cpu").item()
    return rounded
