"""The attention to the text that a block's last step leaves behind, without a forward of its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from echo.model.network.dit import EchoDiT
from echo.model.network.modulation import ModulationCache
from echo.model.sampling.prefix import Prefix
from echo.model.sampling.sampler import BlockSampler, draw_noise, make_conditions, step_together
from echo.types import BlockSpec, SamplerParams
from tests.closeness import assert_close
from tests.unit.model.cuda.test_graphs import recorded_dit
from tests.unit.small_echo import small_dit

HEADS = ((0, 1), (1, 0), (1, 1))
TEXTS = ([0, *b"one"], [0, *b"another text"])


def samplers_of(dit: EchoDiT, *, prefix: int = 0) -> list[BlockSampler]:
    """A block of each of two texts, of different sizes and with a different number of steps, guided."""
    tables = ModulationCache(dit.modulation)
    before = torch.randn(prefix, 80, generator=torch.Generator().manual_seed(9))
    made = []
    for number, (ids, size, steps) in enumerate(zip(TEXTS, (8, 12), (2, 3), strict=True)):
        start = Prefix(dit).append(before) if prefix else Prefix(dit)
        noise = draw_noise(number, 0, 0, 0, size)
        spec = BlockSpec(size=size, steps=steps)
        conditions = make_conditions(dit, torch.tensor(ids))
        made.append(BlockSampler(dit, conditions, start, spec, SamplerParams(), noise, tables=tables))
    return made


def spoken(dit: EchoDiT, samplers: list[BlockSampler]) -> list[BlockSampler]:
    while going := [sampler for sampler in samplers if not sampler.done]:
        step_together(dit, going)
    return samplers


def expected(dit: EchoDiT, size: int, ids: list[int], x: Tensor, t: float) -> Tensor:
    """Softmax over the text's keys alone, mean of the heads, of a forward of the row by itself."""
    text = dit.encode_text(torch.tensor(ids))
    context = dit.pack([[text]], size)[0]
    queries = dit.queries(x, dit.modulation([t]), context, HEADS).float()
    keys = torch.stack([text[layer, 0, head] for layer, head in HEADS]).float()
    of_heads = [(q @ k.T * q.shape[-1] ** -0.5).softmax(-1) for q, k in zip(queries, keys, strict=True)]
    return torch.stack(of_heads).mean(0)


@torch.inference_mode()
def test_it_is_of_the_last_step_and_of_the_text_alone() -> None:
    dit = small_dit(torch.float32)
    dit.watched = HEADS
    sampler = samplers_of(dit)[0]
    while not sampler.done:
        assert sampler.attention is None
        x, t = sampler.latents, sampler.schedule.times[sampler.schedule.steps - 1]
        sampler.step()
    assert sampler.attention is not None
    assert sampler.attention.shape == (8, len(TEXTS[0]))
    assert_close(sampler.attention, expected(dit, 8, list(TEXTS[0]), x, t))


@torch.inference_mode()
def test_watching_needs_no_forward_and_changes_no_latent(monkeypatch: pytest.MonkeyPatch) -> None:
    dit = small_dit(torch.float32)
    alone = spoken(dit, samplers_of(dit, prefix=4))
    assert all(sampler.attention is None for sampler in alone)
    forwards = 0
    forward = dit.forward

    def counted(*arguments: Any) -> Tensor:
        nonlocal forwards
        forwards += 1
        return forward(*arguments)

    monkeypatch.setattr(dit, "forward", counted)
    dit.watched = HEADS
    watched = spoken(dit, samplers_of(dit, prefix=4))
    assert forwards == 3
    for a, b in zip(alone, watched, strict=True):
        assert torch.equal(a.latents, b.latents)


@torch.inference_mode()
def test_rows_in_one_step_and_captured_steps_give_the_same_as_each_row_alone() -> None:
    dit, forward = recorded_dit()
    dit.watched = HEADS
    alone = samplers_of(dit, prefix=4)
    for sampler in alone:
        while not sampler.done:
            sampler.step()
    forward.capture()
    dit.captured = forward
    together = spoken(dit, samplers_of(dit, prefix=4))
    assert forward.misses == 0
    for a, b in zip(alone, together, strict=True):
        assert a.attention is not None
        assert b.attention is not None
        assert_close(a.attention, b.attention, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_steps_that_are_replayed_in_parts_hand_out_each_rows_own() -> None:
    dit, forward = recorded_dit()
    dit.watched = HEADS
    alone, many = [], []
    for _ in range(3):  # 9 rows, one more than a replay has room for
        alone += samplers_of(dit)[1:]
        many += samplers_of(dit)[1:]
    for sampler in alone:
        while not sampler.done:
            sampler.step()
    forward.capture()
    dit.captured = forward
    many[0].step()  # the first ends before the others
    spoken(dit, many)
    for a, b in zip(alone, many, strict=True):
        assert a.attention is not None
        assert b.attention is not None
        assert_close(a.attention, b.attention, rtol=0, atol=1e-5)
