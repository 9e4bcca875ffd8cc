"""Behaviour of the stepwise sampler on the golden model: batching, repeatability, untouched inputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from echo.model.network.dit import EchoDiT
from echo.model.network.modulation import ModulationCache
from echo.model.sampling.guidance import Conditions
from echo.model.sampling.prefix import Prefix
from echo.model.sampling.sampler import BlockSampler, draw_noise, make_conditions, sample_blockwise, step_together
from echo.types import BlockSpec, SamplerParams
from tests.closeness import assert_close
from tests.reference.sampler import bos_conditions

GUIDED = SamplerParams(cfg_scale_text=1.5, cfg_scale_speaker=2.0)
SCALED = SamplerParams(
    cfg_scale_text=2.0, cfg_min_t=0.3, speaker_kv_scale=1.3, speaker_kv_min_t=0.6, rescale_k=1.2, rescale_sigma=3.0
)
TEXT_ONLY = SamplerParams(cfg_scale_text=1.5, cfg_scale_speaker=0.0, cfg_min_t=0.0)


@pytest.fixture(scope="module")
def tables(dit: EchoDiT) -> ModulationCache:
    return ModulationCache(dit.modulation)


@pytest.fixture(scope="module")
def conditions(dit: EchoDiT, vectors: Any) -> list[Conditions]:
    recorded = vectors("sampler_oneshot")
    made = []
    for row in (0, 1):
        ids = recorded["in.text_ids"][row][recorded["in.text_mask"][row]]
        made.append(make_conditions(dit, ids, dit.encode_speaker(recorded["in.speaker_latent"][row])))
    made.append(bos_conditions(dit, torch.tensor([0, 72, 105])))
    return made


def samplers(dit: EchoDiT, conditions: list[Conditions], tables: ModulationCache) -> list[BlockSampler]:
    """Blocks of one size at different positions, with different settings, steps and conditions."""
    prefixes = [Prefix(dit), Prefix(dit).append(draw_noise(9, 0, 0, 0, 10)), Prefix(dit)]
    return [
        BlockSampler(
            dit,
            conditions[i],
            prefixes[i],
            BlockSpec(size=12, steps=steps, truncation=0.9),
            params,
            draw_noise(i, 0, 0, 0, 12),
            tables=tables,
        )
        for i, (steps, params) in enumerate(((4, GUIDED), (6, SCALED), (5, TEXT_ONLY)))
    ]


def test_blocks_stepped_together_come_out_as_alone(
    dit: EchoDiT, conditions: list[Conditions], tables: ModulationCache
) -> None:
    alone = samplers(dit, conditions, tables)
    for sampler in alone:
        while not sampler.done:
            sampler.step()
    together = samplers(dit, conditions, tables)
    together[0].step()  # the others join later
    while running := [sampler for sampler in together if not sampler.done]:
        step_together(dit, running)
    for a, b in zip(alone, together, strict=True):
        assert_close(a.latents, b.latents, rtol=0, atol=5e-5)


def test_rows_of_a_step(dit: EchoDiT, conditions: list[Conditions], tables: ModulationCache) -> None:
    counts = []
    for sampler in samplers(dit, conditions, tables):
        rows = []
        while not sampler.done:
            rows.append(len(sampler.rows().contexts))
            assert sampler.next_rows == rows[-1]
            sampler.step()
        counts.append(rows)
    # Guided and unguided steps; the last has no voice and no speaker guidance.
    assert counts == [[3, 3, 1, 1], [3, 3, 3, 3, 3, 1], [2, 2, 2, 2, 2]]


def test_nothing_given_in_is_written_to(dit: EchoDiT, conditions: list[Conditions], tables: ModulationCache) -> None:
    prefix = Prefix(dit).append(draw_noise(9, 0, 0, 0, 10))
    noise = draw_noise(1, 0, 0, 0, 8)
    assert prefix.kv is not None
    assert conditions[0].speaker is not None
    inputs = (conditions[0].text, conditions[0].speaker, prefix.kv, noise)
    before = [tensor.clone() for tensor in inputs]
    sampler = BlockSampler(dit, conditions[0], prefix, BlockSpec(size=8, steps=5), SCALED, noise, tables=tables)
    while not sampler.done:
        sampler.step()
    assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))


def test_block_can_be_drawn_again_from_the_same_prefix(
    dit: EchoDiT, conditions: list[Conditions], tables: ModulationCache
) -> None:
    prefix = Prefix(dit).append(draw_noise(9, 0, 0, 0, 6))
    spec = BlockSpec(size=8, steps=3)

    def draw(attempt: int) -> torch.Tensor:
        noise = draw_noise(1, 0, 1, attempt, 8)
        sampler = BlockSampler(dit, conditions[0], prefix, spec, GUIDED, noise, tables=tables)
        while not sampler.done:
            sampler.step()
        return sampler.latents

    first, second = draw(0), draw(1)
    assert not torch.equal(first, second)
    assert torch.equal(draw(0), first)
    grown = prefix.append(first)
    assert (prefix.length, grown.length) == (6, 14)


def test_scaling_stops_mattering_once_restored(
    dit: EchoDiT, conditions: list[Conditions], tables: ModulationCache
) -> None:
    def run(**changes: Any) -> torch.Tensor:
        params = SamplerParams(cfg_scale_text=1.5, cfg_scale_speaker=2.0, **changes)
        noise = draw_noise(1, 0, 0, 0, 8)
        sampler = BlockSampler(
            dit, conditions[0], Prefix(dit), BlockSpec(size=8, steps=5), params, noise, tables=tables
        )
        while not sampler.done:
            sampler.step()
        return sampler.latents

    plain, whole, part = run(), run(speaker_kv_scale=1.5), run(speaker_kv_scale=1.5, speaker_kv_min_t=0.9)
    assert torch.equal(run(speaker_kv_scale=1.0), plain)
    assert not torch.equal(whole, part)
    assert not torch.equal(part, plain)


def test_noise_is_given_by_its_place_alone() -> None:
    noise = draw_noise(7, 2, 1, 0, 32)
    assert noise.shape == (32, 80)
    assert noise.dtype is torch.float32
    torch.manual_seed(0)
    assert torch.equal(draw_noise(7, 2, 1, 0, 32), noise)
    assert torch.equal(draw_noise(9, 0, 1, 0, 32), noise)
    for place in ((8, 2, 1, 0), (7, 2, 2, 0), (7, 2, 1, 1), (-7, 2, 1, 0), (2**70, 0, 0, 0)):
        assert not torch.equal(draw_noise(*place, 32), noise)
    assert abs(float(draw_noise(1, 0, 0, 0, 640).std()) - 1) < 0.02


def test_noise_of_another_size_is_refused(dit: EchoDiT, conditions: list[Conditions], tables: ModulationCache) -> None:
    with pytest.raises(ValueError, match="noise"):
        BlockSampler(
            dit, conditions[0], Prefix(dit), BlockSpec(size=8, steps=1), GUIDED, torch.zeros(9, 80), tables=tables
        )


def test_model_without_blockwise_weights_speaks_one_block_and_refuses_a_second(dit: EchoDiT) -> None:
    model = EchoDiT(dit.config, blockwise=False)
    weights = {key: value for key, value in dit.state_dict().items() if key in model.state_dict()}
    model.load_state_dict(weights)
    conditions = make_conditions(model, torch.tensor([0, 72, 105]))
    block, noise = BlockSpec(size=8, steps=1), torch.zeros(8, 80)
    one = sample_blockwise(model, conditions, [block], GUIDED, [noise])
    full = sample_blockwise(dit, make_conditions(dit, torch.tensor([0, 72, 105])), [block], GUIDED, [noise])
    assert torch.equal(one, full)
    with pytest.raises(ValueError, match="in blocks"):
        sample_blockwise(model, conditions, [block, block], GUIDED, [noise, noise])
