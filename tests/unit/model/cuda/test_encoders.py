"""Texts and prefixes at padded lengths, with a stand-in for CUDA's graphs."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from echo.model.cuda.encoders import CapturedEncoders
from echo.model.network.dit import EchoDiT
from echo.model.sampling.prefix import Prefix
from tests.closeness import assert_close
from tests.unit.small_echo import small_dit


def graphs(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Stands in for CUDA's graphs: a replay writes to the tensor of the capture."""
    out = run()
    return lambda: out.copy_(run())


def encoders(dit: EchoDiT) -> CapturedEncoders:
    made = CapturedEncoders(dit, texts=(8, 16, 32), patches=(2, 4, 12), capture=graphs)
    assert made.start()
    return made


@torch.inference_mode()
def test_a_padded_text_has_the_keys_of_an_unpadded_one() -> None:
    dit = small_dit(torch.float32)
    made = encoders(dit)
    for n in (1, 7, 8, 9, 30, 32):
        ids = torch.arange(40, 40 + n, dtype=torch.int32)
        expected = dit.text_keys(ids)
        found = made.text(ids)
        assert found is not None
        assert_close(found, expected, rtol=0, atol=1e-5)
        assert found.is_contiguous()
    assert made.misses == 0


@torch.inference_mode()
def test_keys_are_not_overwritten_by_the_next_text() -> None:
    dit = small_dit(torch.float32)
    dit.encoders = encoders(dit)
    first = dit.encode_text(torch.tensor([0, 70, 80], dtype=torch.int32))
    before = first.clone()
    dit.encode_text(torch.tensor([0, 90, 95, 99], dtype=torch.int32))
    assert torch.equal(first, before)


@torch.inference_mode()
def test_a_prefix_that_grows_in_blocks_of_any_size_has_the_keys_of_an_unpadded_one() -> None:
    plain, fast = small_dit(torch.float32), small_dit(torch.float32)
    made = fast.encoders = encoders(fast)
    expected, found = Prefix(plain), Prefix(fast)
    generator = torch.Generator().manual_seed(0)
    for size in (4, 8, 3, 5, 17, 1, 32):
        latents = torch.randn(size, 80, generator=generator)
        expected, found = expected.append(latents), found.append(latents)
        assert expected.kv is not None
        assert found.kv is not None
        assert_close(found.kv, expected.kv, rtol=0, atol=1e-5)
    assert made.misses == 0


@torch.inference_mode()
def test_latents_that_are_no_numbers_spoil_no_other_prefix() -> None:
    plain, fast = small_dit(torch.float32), small_dit(torch.float32)
    fast.encoders = encoders(fast)
    Prefix(fast).append(torch.full((8, 80), torch.nan)).append(torch.full((40, 80), torch.nan))
    latents = torch.randn(12, 80)
    found = Prefix(fast).append(latents).append(latents).kv
    expected = Prefix(plain).append(latents).append(latents).kv
    assert found is not None
    assert expected is not None
    assert_close(found, expected, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_what_is_longer_than_captured_is_encoded_as_it_comes_and_counted() -> None:
    plain, fast = small_dit(torch.float32), small_dit(torch.float32)
    made = fast.encoders = encoders(fast)
    ids = torch.arange(60, dtype=torch.int32)
    assert_close(fast.encode_text(ids), plain.encode_text(ids))
    latents = torch.randn(80, 80)
    found = Prefix(fast).append(latents).kv
    assert found is not None
    assert_close(found, Prefix(plain).append(latents).kv)
    assert made.misses == 2


def test_a_model_without_blocks_has_texts_only() -> None:
    dit = small_dit(torch.float32)
    dit.blockwise = False
    encoders(dit)


def test_graphs_that_fail_or_deviate_are_not_used_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    def failing(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        raise RuntimeError("no graphs here")

    def wrong(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        return lambda: 2 * run()

    dit = small_dit(torch.float32)
    for capture, message in ((failing, "do not work here: RuntimeError"), (wrong, "deviate by")):
        made = CapturedEncoders(dit, texts=(8,), patches=(6,), capture=capture)
        with caplog.at_level(logging.WARNING):
            assert not made.start()
        assert message in caplog.text
        assert made.text(torch.arange(3, dtype=torch.int32)) is None
        assert made.misses == 1
