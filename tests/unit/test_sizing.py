"""Blocks sized from a text's estimated length: enough for the speech, and little behind it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.plans import PACES, corpus, cost, count, plans
from echo.sizing import sized_plan
from echo.types import BlockPlan, BlockSpec, ChunkRules

REFERENCE = BlockPlan(
    blocks=(BlockSpec(size=32, steps=8), BlockSpec(size=128, steps=15), BlockSpec(size=480, steps=20)), sized=True
)
WHOLE = BlockPlan(blocks=(BlockSpec(size=640, steps=20),), sized=True)


def sizes(plan: BlockPlan, estimate_s: float) -> list[int]:
    return [block.size for block in sized_plan(plan, estimate_s).blocks]


@pytest.mark.parametrize(
    ("seconds", "blocks"),
    [
        (0.5, [32]),
        (1.0, [32, 32]),
        (5.0, [32, 128]),
        (8.0, [32, 128, 64]),
        (15.0, [32, 128, 224]),
        (40.0, [32, 128, 480]),
    ],
)
def test_the_last_block_is_cut_to_what_the_text_probably_takes(seconds: float, blocks: list[int]) -> None:
    found = sizes(REFERENCE, seconds)
    assert found[: len(blocks)] == blocks
    assert all(size == 64 for size in found[len(blocks) : -1])
    assert sum(found) == 640


def test_a_whole_answer_is_one_block_of_about_the_texts_length() -> None:
    assert sizes(WHOLE, 3.0)[:2] == [96, 64]
    assert sizes(WHOLE, 60.0) == [640]


def test_the_steps_of_a_block_are_those_of_the_plan() -> None:
    found = sized_plan(REFERENCE, 1.0).blocks
    assert [block.steps for block in found[:3]] == [8, 15, 20]
    assert {block.steps for block in found[2:]} == {20}


def test_an_exact_plan_stays_as_it_is() -> None:
    exact = replace(REFERENCE, sized=False)
    assert sized_plan(exact, 3.0) is exact


def test_silence_that_is_too_short_for_a_flat_tail_is_cut_all_the_same() -> None:
    assert sized_plan(REFERENCE, 3.0).tail.cut_silent_tail
    assert not REFERENCE.tail.cut_silent_tail


@given(st.sampled_from([REFERENCE, WHOLE]), st.floats(0.01, 100))
def test_a_sized_plan_covers_what_the_plan_does_in_multiples_of_a_captured_size(
    plan: BlockPlan, seconds: float
) -> None:
    found = sizes(plan, seconds)
    assert sum(found) == plan.latents
    assert all(size % 32 == 0 for size in found)
    assert max(found) <= max(block.size for block in plan.blocks)
    assert sized_plan(sized_plan(plan, seconds), seconds) == sized_plan(plan, seconds)


@pytest.mark.slow
def test_sized_blocks_cost_under_three_quarters_and_whole_answers_two_thirds_of_the_exact_at_any_pace() -> None:
    texts, rules = corpus(), ChunkRules()
    by_name = plans("echo", ["exact", "default"])
    for pace in PACES:
        streamed = [count(texts, by_name[f"{name}, streamed"], rules, pace).per_latent for name in ("exact", "default")]
        whole = [count(texts, by_name[f"{name}, whole"], rules, pace).per_latent for name in ("exact", "default")]
        assert streamed[1] < 0.75 * streamed[0]
        assert whole[1] < 0.67 * whole[0]


def test_eight_seconds_of_speech_cost_a_third_of_the_exact_plan() -> None:
    by_name = plans("echo", ["exact", "default"])
    assert cost(by_name["exact, streamed"], 8.0).per_latent == pytest.approx(137, abs=2)
    assert cost(sized_plan(by_name["default, streamed"], 8.0), 8.0).per_latent < 48
