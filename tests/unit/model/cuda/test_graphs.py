"""The forward of many rows at once and its captured graphs, with stand-ins for CUDA's kernel and its graphs."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from echo.model.cuda.graphs import BUCKETS as REAL_BUCKETS
from echo.model.cuda.graphs import CapturedForward, attend_row_by_row
from echo.model.network.arena import Arena
from echo.model.network.dit import EchoDiT
from echo.model.network.kv import KV, RowContext
from echo.model.network.modulation import ModulationCache
from echo.model.sampling.prefix import Prefix
from echo.model.sampling.sampler import BlockSampler, draw_noise, make_conditions, step_together
from echo.types import BlockSpec, SamplerParams
from tests.closeness import assert_close
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
        for a, b in zip(found, dit.row_by_row(*given_in), strict=True):
            assert_close(a, b, rtol=0, atol=2e-5)
    assert forward.misses == 0


@torch.inference_mode()
def test_result_is_not_overwritten_by_the_next_step() -> None:
    dit, forward = recorded_dit()
    first = forward(*rows_of(dit, [5, 6]))
    before = [row.clone() for row in first]
    forward(*rows_of(dit, [9, 2]))
    assert all(torch.equal(a, b) for a, b in zip(first, before, strict=True))


@torch.inference_mode()
def test_step_with_more_rows_or_latents_than_a_replay_has_room_for_is_replayed_in_parts() -> None:
    recorder = Recorder()
    dit, forward = recorded_dit(recorder)
    dit.captured = forward
    for sizes, replays in (([200, 100], 2), ([2] * 9, 2), ([100, 100, 100, 100, 100], 3)):
        before = recorder.replayed
        given_in = rows_of(dit, sizes)
        found = dit.velocity(*given_in)
        assert recorder.replayed - before == replays
        for a, b in zip(found, dit.row_by_row(*given_in), strict=True):
            assert_close(a, b, rtol=0, atol=2e-5)
    assert forward.misses == 0


@torch.inference_mode()
def test_rows_whose_keys_do_not_fit_the_arena_run_eagerly_and_the_others_of_the_step_are_replayed() -> None:
    recorder = Recorder()
    dit, forward = recorded_dit(recorder)
    dit.captured = forward
    rows, modulation, contexts, starts = rows_of(dit, [9, 2, 5])
    full, dit.arena = dit.arena, None
    contexts[1] = dit.pack([[dit.allocate(7).normal_()]], 2, [None])[0]
    dit.arena = full
    found = dit.velocity(rows, modulation, contexts, starts)
    assert recorder.replayed == 1
    expected = dit.row_by_row(rows, modulation, contexts, starts)
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, rtol=0, atol=2e-5)
    assert forward.misses == 1


@torch.inference_mode()
def test_a_small_bucket_has_room_for_few_rows_so_many_short_rows_take_a_larger_one() -> None:
    dit = small_dit(torch.float32)
    dit.arena = Arena(DIT.num_layers, DIT.num_heads, DIT.head_dim, 4000, dtype=dit.dtype, device="cpu")
    sequences: list[tuple[int, int]] = []

    def kernel(
        q: Tensor, k: Tensor, v: Tensor, begin: Tensor, starts: Tensor, counts: Tensor, longest: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        sequences.append((len(counts), longest[0]))
        return attend_row_by_row(q, k, v, begin, starts, counts, longest)

    forward = CapturedForward(dit, dit.arena, max_rows=40, buckets=(32, 256, 1024), kernel=kernel, capture=Recorder())
    forward.capture()
    for sizes, room in (([10, 10, 10], 9), ([2] * 12, 17), ([2] * 40, 41), ([640, 9], 41)):
        given_in = rows_of(dit, sizes)
        sequences.clear()
        found = forward(*given_in)
        assert {count for count, _ in sequences} == {room}  # one more, for the padding
        assert max(longest for _, longest in sequences) <= 640
        for a, b in zip(found, dit.row_by_row(*given_in), strict=True):
            assert_close(a, b, rtol=0, atol=2e-5)


def flash_contract(
    q: Tensor, k: Tensor, v: Tensor, begin: Tensor, starts: Tensor, counts: Tensor, longest: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """What FlashAttention promises, and no more: nothing is written where no row has latents; a row without keys gets
    zeros of infinite weight. ``begin`` and ``starts`` are int32 and contiguous, as it demands.
    """
    rows = len(counts)
    assert all(each.dtype is torch.int32 and each.is_contiguous() for each in (begin, starts, counts))
    assert len(begin) == len(starts) == rows + 1
    assert int((begin[1:] - begin[:-1]).max()) <= longest[0]
    assert int(counts.max()) <= longest[1]
    out, weight = torch.full_like(q, torch.nan), q.new_full(q.shape[:2], torch.nan, dtype=torch.float32)
    cuts = begin.tolist()
    for row, (first, end) in enumerate(itertools.pairwise(cuts)):
        if counts[row] == 0:
            out[first:end], weight[first:end] = 0.0, torch.inf
    found, its_weight = attend_row_by_row(q, k, v, begin, starts, counts, longest)
    for row, (first, end) in enumerate(itertools.pairwise(cuts)):
        if counts[row]:
            out[first:end], weight[first:end] = found[first:end], its_weight[first:end]
    return out, weight


@torch.inference_mode()
def test_what_flash_attention_leaves_unwritten_reaches_no_result_and_no_later_step() -> None:
    dit = small_dit(torch.float32)
    dit.arena = Arena(DIT.num_layers, DIT.num_heads, DIT.head_dim, 4000, dtype=dit.dtype, device="cpu")
    forward = CapturedForward(dit, dit.arena, max_rows=8, buckets=BUCKETS, kernel=flash_contract, capture=Recorder())
    assert forward.start()
    for sizes in ([4], [7, 20, 3, 12, 9], [33], [100, 60, 1], [1]):
        given_in = rows_of(dit, sizes)
        found = forward(*given_in)
        for a, b in zip(found, dit.row_by_row(*given_in), strict=True):
            assert_close(a, b, rtol=0, atol=2e-5)


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
        assert_close(b.latents, a.latents, rtol=0, atol=1e-4)
    assert recorder.recorded == len(BUCKETS)
    assert recorder.replayed == max(steps)
    assert forward.misses == 0


def test_correct_graphs_pass_the_check() -> None:
    _, forward = recorded_dit()
    assert forward.start()


def test_the_check_replays_the_smallest_bucket_the_largest_and_one_in_between() -> None:
    dit = small_dit(torch.float32)
    dit.arena = Arena(DIT.num_layers, DIT.num_heads, DIT.head_dim, 5000, dtype=dit.dtype, device="cpu")
    replayed: list[int] = []

    def capture(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        def replay() -> Tensor:
            out = run()
            replayed.append(len(out))
            return out

        return replay

    forward = CapturedForward(dit, dit.arena, max_rows=64, kernel=flash_contract, capture=capture)
    assert forward.start()
    assert replayed[0] == REAL_BUCKETS[0]
    assert 256 < replayed[1] < REAL_BUCKETS[-1]
    assert replayed[2] == REAL_BUCKETS[-1]


@torch.inference_mode()
def test_row_that_is_longer_than_the_attention_call_looks_for_runs_eagerly_and_is_counted() -> None:
    dit = small_dit(torch.float32)
    dit.arena = Arena(DIT.num_layers, DIT.num_heads, DIT.head_dim, 8000, dtype=dit.dtype, device="cpu")
    forward = CapturedForward(dit, dit.arena, max_rows=8, buckets=(32, 1024), kernel=flash_contract, capture=Recorder())
    forward.capture()
    given_in = rows_of(dit, [9, 700])
    for a, b in zip(forward(*given_in), dit.row_by_row(*given_in), strict=True):
        assert_close(a, b, rtol=0, atol=2e-5)
    assert forward.misses == 1


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

    def no_number(*arguments: Tensor) -> tuple[Tensor, Tensor]:
        out, weight = attend_row_by_row(*arguments)  # type: ignore[arg-type]
        out[int(arguments[3][1]) :][:1] = torch.nan  # of the second row alone
        return out, weight

    forward._kernel = no_number
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert not forward.start()
    assert "deviate by nan" in caplog.text

    def failing(*arguments: Tensor) -> tuple[Tensor, Tensor]:
        raise RuntimeError("no such kernel")

    forward._kernel = failing
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert not forward.start()
    assert "do not work here, steps run eagerly: RuntimeError" in caplog.text
