"""The way through a text: close to the truth, never back, and the same in blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from echo.timing.path import TextPath
from tests.unit.timing.told import attend


@given(
    steps=st.lists(st.floats(0, 3), min_size=2, max_size=60),
    cuts=st.lists(st.integers(1, 59), max_size=3),
    doubt=st.floats(0, 0.5),
)
def test_places_are_found_in_blocks_as_in_one_piece(steps: list[float], cuts: list[int], doubt: float) -> None:
    truth = 1 + np.cumsum(steps)
    tokens = int(truth[-1]) + 3
    attention = attend(truth, tokens) * (1 - doubt) + doubt / tokens  # some of it anywhere
    path = TextPath(tokens, 1)
    blocks = np.split(attention, sorted({cut for cut in cuts if cut < len(attention)}))
    found = np.concatenate([path.push(block) for block in blocks])
    assert (np.diff(found) >= 0).all()
    assert np.abs(found - truth).max() < 1.5
    assert path.place == found[-1]


def test_attention_that_jumps_back_is_not_followed() -> None:
    truth = np.linspace(1, 30, 60)
    seen = truth.copy()
    seen[30:34] = 3.0  # the same word, earlier in the text
    found = TextPath(32, 1).push(attend(seen, 32))
    assert np.abs(found - truth).max() < 2


def test_what_has_been_told_is_not_taken_back() -> None:
    path = TextPath(40, 1)
    before = path.push(attend(np.linspace(1, 20, 20), 40))
    after = path.push(attend(np.linspace(5, 30, 20), 40))
    assert after[0] >= before[-1]
    assert after[-1] == pytest.approx(30, abs=1)


def test_a_text_may_begin_in_its_middle() -> None:
    found = TextPath(40, 25).push(attend(np.linspace(25, 38, 20), 40))
    assert found[0] == pytest.approx(25, abs=1)


def test_no_latents_are_no_places() -> None:
    assert len(TextPath(5).push(np.zeros((0, 5), np.float32))) == 0
