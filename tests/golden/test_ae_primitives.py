from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from echo.model.autoencoder.conv import Snake
from echo.model.autoencoder.history import History
from echo.model.autoencoder.transformer import rotary_table, window_mask
from echo.model.network.layers import rotate
from tests.closeness import assert_close

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def unit(vectors: Any) -> dict[str, Tensor]:
    loaded: dict[str, Tensor] = vectors("primitives")
    return loaded


def test_snake(unit: dict[str, Tensor]) -> None:
    snake = Snake(unit["snake.alpha"].shape[1])
    snake.load_state_dict({"alpha": unit["snake.alpha"]})
    assert_close(snake(unit["snake.x"], History()), unit["snake.out"], rtol=0, atol=TOLERANCE)


def test_rotary_table_is_exactly_the_bfloat16_one(unit: dict[str, Tensor]) -> None:
    assert torch.equal(rotary_table(unit["ae_rope.positions"], 64, 10_000.0), unit["ae_rope.table_bf16"])


def test_rotation_at_positions_100_to_105(unit: dict[str, Tensor]) -> None:
    table = rotary_table(torch.arange(100, 106), 64, 10_000.0).float().transpose(-1, -2)
    rotated = rotate(unit["ae_rope.x"], table)
    assert_close(rotated, unit["ae_rope.out_pos_100"], rtol=0, atol=TOLERANCE)


def test_window_mask_at_the_start_hides_what_does_not_exist(unit: dict[str, Tensor]) -> None:
    mask = window_mask(torch.zeros(1, dtype=torch.long), 9, 4)[0, 0]
    assert not mask[:, :3].any()  # the three positions before the first
    assert torch.equal(mask[:, 3:], unit["window_mask.T9_w4"])


def test_window_mask_later_on_continues_the_same_band(unit: dict[str, Tensor]) -> None:
    whole = unit["window_mask.T9_w4"]
    mask = window_mask(torch.tensor([5]), 4, 4)[0, 0]  # queries 5 to 8 over keys 2 to 8
    assert torch.equal(mask, whole[5:, 2:])


def test_window_mask_has_a_start_per_row() -> None:
    starts = torch.tensor([0, 2, 7])
    mask = window_mask(starts, 3, 4)
    for row, start in enumerate(starts):
        assert torch.equal(mask[row], window_mask(start[None], 3, 4)[0])
