"""A step that finds no memory in its middle has changed none of its blocks: repeated, it is as if nothing had been."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from echo.model.network.dit import EchoDiT
from echo.model.network.modulation import ModulationCache
from echo.model.sampling.prefix import Prefix
from echo.model.sampling.sampler import BlockSampler, draw_noise, make_conditions, step_together
from echo.types import BlockSpec, SamplerParams
from tests.closeness import assert_close
from tests.unit.small_echo import small_dit

#: Guidance, rescaling, and keys of the voice that are scaled for the first of three steps only: after it, all is packed
#: again.
PARAMS = SamplerParams(
    cfg_scale_text=2.0,
    cfg_scale_speaker=2.0,
    cfg_min_t=0.0,
    rescale_k=1.2,
    rescale_sigma=3.0,
    speaker_kv_scale=1.5,
    speaker_kv_min_t=0.9,
)


class Full(TorchDispatchMode):
    """A device without memory for the operation of a number; ``count`` is how many were begun."""

    def __init__(self, fails: int | None = None) -> None:
        super().__init__()
        self.count = 0
        self._fails = fails

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.count == self._fails:
            self.count += 1
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def dit() -> EchoDiT:
    return small_dit(torch.float32)


def samplers(dit: EchoDiT) -> list[BlockSampler]:
    with torch.inference_mode():
        speaker = dit.encode_speaker(draw_noise(5, 0, 0, 0, 16), 16)
    tables = ModulationCache(dit.modulation)
    conditions = make_conditions(dit, torch.arange(1, 8, dtype=torch.int32), speaker)
    spec = BlockSpec(size=8, steps=3)
    return [
        BlockSampler(dit, conditions, Prefix(dit), spec, PARAMS, draw_noise(seed, 0, 0, 0, 8), tables=tables)
        for seed in (1, 2)
    ]


def finished(dit: EchoDiT, blocks: list[BlockSampler]) -> list[Tensor]:
    while not blocks[0].done:
        step_together(dit, blocks)
    return [block.latents for block in blocks]


@pytest.mark.slow
@pytest.mark.parametrize("steps_before", [0, 1, 2])
def test_a_step_can_be_repeated_wherever_it_has_failed(dit: EchoDiT, steps_before: int) -> None:
    blocks = samplers(dit)
    assert blocks[0].schedule.scaled_steps == 1
    wanted = finished(dit, blocks)

    blocks = samplers(dit)
    for _ in range(steps_before):
        step_together(dit, blocks)
    with Full() as counted:
        step_together(dit, blocks)

    # Now and then in the forward, and often in the last part, where the blocks are changed.
    end = counted.count
    for fails in [*range(0, end - 50, 67), *range(end - 50, end, 6), end - 1]:
        blocks = samplers(dit)
        for _ in range(steps_before):
            step_together(dit, blocks)
        with pytest.raises(torch.OutOfMemoryError), Full(fails):
            step_together(dit, blocks)
        assert not any(block.done for block in blocks)
        for got, want in zip(finished(dit, blocks), wanted, strict=True):
            assert_close(got, want, rtol=0, atol=0)
