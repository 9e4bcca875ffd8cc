from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from echo.model.network.attention import rotate_first
from echo.model.network.dit import Block, EchoDiT
from echo.model.network.layers import Rotary, rotate
from echo.model.network.modulation import modulate, timestep_embedding
from echo.model.sampling.guidance import rescale
from echo.model.sampling.schedule import make_schedule
from echo.types import BlockSpec, SamplerParams
from tests.closeness import assert_close

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def unit(vectors: Any) -> dict[str, Tensor]:
    loaded: dict[str, Tensor] = vectors("primitives")
    return loaded


@pytest.fixture(scope="module")
def block(dit: EchoDiT) -> Block:
    first = dit.blocks[0]
    assert isinstance(first, Block)
    return first


def close(actual: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    assert_close(actual, expected, rtol=0, atol=tolerance)


CPU = torch.device("cpu")


def real(turns: Tensor) -> Tensor:
    """Turns as devices other than the CPU have them."""
    return torch.stack((turns.real, turns.imag), dim=1)


def test_rotary_table(unit: dict[str, Tensor]) -> None:
    table = Rotary(2 * unit["rope.cos"].shape[1])(0, 640, CPU)[unit["rope.positions"]]
    close(table.real, unit["rope.cos"])
    close(table.imag, unit["rope.sin"])
    elsewhere = Rotary(2 * unit["rope.cos"].shape[1])(0, 640, torch.device("meta"))
    assert elsewhere.shape == real(Rotary(2 * unit["rope.cos"].shape[1])(0, 640, CPU)).shape


@pytest.mark.parametrize("form", [real, torch.clone], ids=["real", "complex"])
def test_rotation_of_all_heads_at_positions_3_to_7(unit: dict[str, Tensor], form: Callable[[Tensor], Tensor]) -> None:
    x = unit["rope.x"]
    close(rotate(x, form(Rotary(x.shape[-1])(3, 5, CPU))), unit["rope.full_out"])


@pytest.mark.parametrize("form", [real, torch.clone], ids=["real", "complex"])
def test_rotation_of_half_the_heads(unit: dict[str, Tensor], form: Callable[[Tensor], Tensor]) -> None:
    x = unit["rope.x"]
    turns = form(Rotary(x.shape[-1])(3, 5, CPU))
    close(rotate_first(x, turns, (x.shape[-2] + 1) // 2), unit["rope.half_heads_out"])


def test_rotary_stride_takes_every_nth_position() -> None:
    rotary = Rotary(16)
    every = rotary(0, 40, CPU)
    assert torch.equal(rotary(8, 5, CPU, stride=4), every[8:28:4])


def test_rotary_table_grows_beyond_its_first_size() -> None:
    rotary = Rotary(16)
    near = rotary(0, 10, CPU)
    assert rotary(5000, 3, CPU).shape == (3, 8)
    assert torch.equal(rotary(0, 10, CPU), near)


def test_head_norm_has_weights_per_head(unit: dict[str, Tensor], block: Block) -> None:
    close(block.attention.q_norm(unit["rope.x"]), unit["headnorm.out"])


def test_timestep_embedding(unit: dict[str, Tensor]) -> None:
    expected = unit["time.embedding"]
    close(timestep_embedding(unit["time.t"], expected.shape[1]), expected)


def test_timestep_embedding_of_a_time_in_bfloat16(unit: dict[str, Tensor]) -> None:
    expected = unit["time.embedding_bf16_t"]
    actual = timestep_embedding(unit["time.t"].bfloat16(), expected.shape[1])
    assert actual.dtype is torch.bfloat16
    assert torch.equal(actual, expected)


def test_condition(unit: dict[str, Tensor], dit: EchoDiT) -> None:
    close(dit.cond_module(unit["time.embedding"]), unit["time.cond"][:, 0])


def test_adaptive_norm(unit: dict[str, Tensor], block: Block) -> None:
    shift, scale, gate = block.attention_adaln(unit["time.cond"][:, 0])[:, :, None].unbind(1)
    close(modulate(unit["adaln.x"], shift, scale, block.eps), unit["adaln.normed"])
    close(gate, unit["adaln.gate"])


@pytest.mark.parametrize("steps", [8, 40])
def test_schedule(unit: dict[str, Tensor], steps: int) -> None:
    schedule = make_schedule(BlockSpec(size=4, steps=steps), SamplerParams())
    close(torch.tensor(schedule.times), unit[f"schedule.{steps}"], 1e-7)


@pytest.mark.parametrize(
    ("case", "t", "k", "sigma"), [(0, 0.999, 1.2, 3.0), (1, 0.5, 1.2, 3.0), (2, 0.05, 0.8, 2.0), (3, 1.0, 1.2, 3.0)]
)
def test_score_rescaling(unit: dict[str, Tensor], case: int, t: float, k: float, sigma: float) -> None:
    close(rescale(unit["rescale.v"], unit["rescale.x"], t, k, sigma), unit[f"rescale.out{case}"])
