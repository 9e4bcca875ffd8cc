"""The forward of many rows at once and its captured graphs, with stand-ins for CUDA's kernel and its graphs."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from echo.model.cuda.graphs import CapturedForward, attend_row_by_row
from echo.model.network.arena import Arena
from echo.model.network.dit import EchoDiT
from echo.model.network.kv import KV, RowContext
from echo.model.network.modulation import ModulationCache
from echo.model.sampling.prefix import Prefix
from echo.model.sampling.sampler import BlockSampler, draw_noise, make_conditions, step_together
from echo.types import BlockSpec, SamplerParams
from tests.unit.small_echo import DIT, small_dit

BUCKETS = (32, 64, 256)


class Recorder:
    """Stands in for CUDA's graphs: what is replayed reads and writes the tensors of the recording."""

    def __init__(self) -> None:
        self.recorded = 0
        self.replayed = 0

    def __call__(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        out = run().clone()
        self.recorded += 1

        def replay() -> Tensor:
            self.replayed += 1
            return out.copy_(run())

        return replay


def recorded_dit(recorder: Recorder | None = None) -> tuple[EchoDiT, CapturedForward]:
    dit = small_dit(torch.float32)
    dit.arena = Arena(DIT.num_layers, DIT.num_heads, DIT.head_dim, 4000, dtype=dit.dtype, device="cpu")
    forward = CapturedForward(
        dit, dit.arena, max_rows=8, buckets=BUCKETS, kernel=attend_row_by_row, capture=recorder or Recorder()
    )
    forward.capture()
    return dit, forward


def rows_of(dit: EchoDiT, sizes: list[int]) -> tuple[list[Tensor], Tensor, list[RowContext], list[int]]:
    generator = torch.Generator().manual_seed(sum(sizes))

    def kv(n: int) -> KV:
        return dit.allocate(n).normal_(generator=generator)

    voice, contexts, starts = kv(6), [], []
    for i, size in enumerate(sizes):
        sources = [kv(3 + i), kv(i)][: i % 3]
        contexts += dit.pack([sources], size, [voice if i % 2 else None])
        starts.append(5 * i)
    rows = [torch.randn(size, DIT.latent_size, generator=generator) for size in sizes]
    return rows, dit.modulation([0.9 - 0.1 * i for i in range(len(sizes))]), contexts, starts


@torch.inference_mode()
def test_many_rows_at_once_come_out_as_row_by_row() -> None:
    dit, forward = recorded_dit()
    for sizes in ([4], [32, 32], [7, 20, 3, 12, 9], [8] * 8, [100, 60, 1]):
        given_in = rows_of(dit, sizes)
        found = forward(*given_in)
        assert found is not None
        for a, b in zip(found, dit.row_by_row(*given_in), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=2e-5)
    assert forward.misses == 0


@torch.inference_mode()
def test_result_is_not_overwritten_by_the_next_step() -> None:
    dit, forward = recorded_dit()
    first = forward(*rows_of(dit, [5, 6]))
    assert first is not None
    before = [row.clone() for row in first]
    forward(*rows_of(dit, [9, 2]))
    assert all(torch.equal(a, b) for a, b in zip(first, before, strict=True))


@torch.inference_mode()
def test_step_that_is_not_recorded_is_computed_as_it_is_and_counted() -> None:
    dit, forward = recorded_dit()
    dit.captured = forward
    for sizes in ([200, 100], [2] * 9):
        given_in = rows_of(dit, sizes)
        found = dit.velocity(*given_in)
        assert all(torch.equal(a, b) for a, b in zip(found, dit.row_by_row(*given_in), strict=True))
    assert forward.misses == 2


@torch.inference_mode()
def test_keys_that_do_not_fit_the_arena_are_allocated_elsewhere_and_their_steps_run_eagerly() -> None:
    dit, forward = recorded_dit()
    dit.captured = forward
    assert dit.arena is not None
    hog = dit.allocate(dit.arena.free - 4)
    given_in = rows_of(dit, [9, 2])
    found = dit.velocity(*given_in)
    assert all(torch.equal(a, b) for a, b in zip(found, dit.row_by_row(*given_in), strict=True))
    assert forward.misses == 1
    del hog


def mix(dit: EchoDiT, texts: list[int], sizes: list[int], steps: list[int]) -> list[BlockSampler]:
    tables = ModulationCache(dit.modulation)
    voice = dit.encode_speaker(torch.randn(16, 80, generator=torch.Generator().manual_seed(1)))
    made = []
    for i, (text, size, count) in enumerate(zip(texts, sizes, steps, strict=True)):
        prefix = Prefix(dit).append(draw_noise(9, 0, 0, i, 4 * i)) if i else Prefix(dit)
        params = SamplerParams(cfg_scale_speaker=3.0 if i % 2 else 0.0, speaker_kv_scale=1.5 if i == 1 else None)
        conditions = make_conditions(dit, torch.arange(1, text + 1), voice if i != 2 else None)
        spec = BlockSpec(size=size, steps=count)
        made.append(BlockSampler(dit, conditions, prefix, spec, params, draw_noise(i, 0, 0, 0, size), tables=tables))
    return made


@pytest.mark.slow
@settings(deadline=None, max_examples=15)
@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(2, 24), st.integers(1, 4)), min_size=1, max_size=3),
)
def test_blocks_of_any_mix_come_out_as_alone_and_nothing_is_recorded_anew(jobs: list[tuple[int, int, int]]) -> None:
    texts, sizes, steps = (list(column) for column in zip(*jobs, strict=True))
    plain = small_dit(torch.float32)
    alone = mix(plain, texts, sizes, steps)
    for sampler in alone:
        while not sampler.done:
            sampler.step()
    recorder = Recorder()
    dit, forward = recorded_dit(recorder)
    dit.captured = forward
    together = mix(dit, texts, sizes, steps)
    while running := [sampler for sampler in together if not sampler.done]:
        step_together(dit, running)
    for a, b in zip(alone, together, strict=True):
        torch.testing.assert_close(b.latents, a.latents, rtol=0, atol=1e-4)
    assert recorder.recorded == len(BUCKETS)
    assert recorder.replayed == max(steps)
    assert forward.misses == 0


def test_correct_graphs_pass_the_check() -> None:
    _, forward = recorded_dit()
    assert forward.start()


def test_graphs_that_deviate_or_fail_are_not_used_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    dit = small_dit(torch.float32)
    arena = Arena(DIT.num_layers, DIT.num_heads, DIT.head_dim, 4000, dtype=dit.dtype, device="cpu")

    def wrong(*arguments: Tensor) -> tuple[Tensor, Tensor]:
        out, weight = attend_row_by_row(*arguments)  # type: ignore[arg-type]
        return 0 * out, weight

    forward = CapturedForward(dit, arena, max_rows=4, buckets=BUCKETS, kernel=wrong, capture=Recorder())
    with caplog.at_level(logging.WARNING):
        assert not forward.start()
    assert "deviate" in caplog.text

    def failing(*arguments: Tensor) -> tuple[Tensor, Tensor]:
        raise RuntimeError("no such kernel")

    forward._kernel = failing
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert not forward.start()
    assert "do not work here, steps run eagerly: RuntimeError" in caplog.text
