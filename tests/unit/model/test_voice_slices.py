"""A reference is encoded in slices of bounded work, whatever its length, so that nobody waits long behind one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from echo.engines.block import BlockEngine
from echo.engines.load import load_engine
from echo.model.echo import EchoModel
from echo.settings import load_settings
from echo.types import SAMPLES_PER_LATENT, Audio
from tests.closeness import assert_close


@pytest.fixture(scope="module")
def engine() -> Iterator[BlockEngine]:
    made = load_engine(load_settings({}, model_repo="tiny", model_dtype="float32"), None)
    yield made
    made.close()


@pytest.fixture(scope="module")
def model(engine: BlockEngine) -> EchoModel:
    assert isinstance(engine._model, EchoModel)
    return engine._model


def reference(latents: int) -> Audio:
    noise = np.random.default_rng(0).standard_normal(latents * SAMPLES_PER_LATENT)
    return (0.1 * noise).astype(np.float32)


def work_of_slices(model: EchoModel, audio: Audio) -> list[int]:
    """Floating-point operations between two pauses."""
    slices, encoding = [], model.encode_voice_in_slices(audio)
    while True:
        with FlopCounterMode(display=False) as counter:
            try:
                next(encoding)
            except StopIteration:
                slices.append(counter.get_total_flops())
                return slices
        slices.append(counter.get_total_flops())


@pytest.mark.slow
def test_no_slice_of_a_long_reference_is_more_work_than_one_of_a_short(model: EchoModel) -> None:
    short, long = (work_of_slices(model, reference(latents)) for latents in (32, 400))
    assert min(short) >= 0
    assert max(short) > 0
    assert max(long) <= 1.1 * max(short)
    assert sum(long) > 8 * sum(short), "it is more work in all"


@pytest.mark.slow
def test_the_last_slices_do_not_grow_with_what_came_before(model: EchoModel) -> None:
    """The speaker encoder reads all latents; at once that would be work of the square of their number."""
    encoding = model.dit.encode_speaker_in_slices(torch.randn(6400, 80), 6400, 32)
    work = []
    for _ in range(6400 // 4 // 32):
        with FlopCounterMode(display=False) as counter:
            next(encoding)
        work.append(counter.get_total_flops())
    assert work[-1] < 3 * work[0], "only the attention to what has been read grows, by a key per patch"
    assert work[-1] < 0.1 * sum(work)


@pytest.mark.parametrize(("latents", "valid"), [(4, 4), (128, 128), (400, 397), (400, 130), (8, 0)])
def test_the_speaker_is_the_same_in_slices_as_at_once(model: EchoModel, latents: int, valid: int) -> None:
    generator = torch.Generator().manual_seed(1)
    speaker = torch.randn(latents, 80, generator=generator)
    encoding = model.dit.encode_speaker_in_slices(speaker, valid, 32)
    while True:
        try:
            next(encoding)
        except StopIteration as end:
            sliced = end.value
            break
    whole = model.dit.encode_speaker(speaker, valid)
    assert sliced.shape == whole.shape
    assert_close(sliced, whole, rtol=1e-4, atol=1e-5)
