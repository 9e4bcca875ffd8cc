"""The released model at full size on fake CUDA tensors: one device, no hidden wait, and how much a call launches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from echo.engines.accelerate import accelerate
from echo.model.cuda.decoder import CapturedDecoder, Shape
from echo.model.cuda.encoders import CapturedEncoders
from echo.model.cuda.graphs import BUCKETS, CapturedForward
from echo.model.echo import EchoModel
from echo.model.files.weights import LoadedEcho
from echo.model.network.arena import Arena
from echo.model.sampling.sampler import BlockSampler
from echo.types import BlockSpec, SamplerParams, TailRules
from tests.unit.model.cuda.fake_cuda import CUDA, FakeCuda, HiddenSync, Kernels, at_most, fake_runtime, released

pytestmark = pytest.mark.slow

TEXT = [0] * 100
BLOCK = BlockSpec(size=32, steps=8)


@pytest.fixture(scope="module")
def cuda() -> FakeCuda:
    return FakeCuda()


@pytest.fixture(scope="module")
def loaded(cuda: FakeCuda) -> LoadedEcho:
    """Warm: the tables of rotations and modulations are on the device."""
    with pytest.MonkeyPatch.context() as patch, cuda() as kernels:
        fake_runtime(patch)
        kernels.strict = False
        made = released()
        model = EchoModel(made, lambda text: [0, *text.encode()], max_speaker_latents=6400)
        sampler = block(model)
        model.step([sampler])
        model.extend(model.empty_prefix(), sampler.latents)
        model.dit.speaker_encoder.rotary.table(1, CUDA)  # as the warm-up's voice does
        return made


@pytest.fixture
def kernels(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernels]:
    fake_runtime(monkeypatch)
    with cuda() as kernels:
        yield kernels


@pytest.fixture
def model(loaded: LoadedEcho, kernels: Kernels) -> Iterator[EchoModel]:
    model = EchoModel(loaded, lambda text: [0, *text.encode()], max_speaker_latents=6400)
    yield model
    model.dit.arena = model.dit.captured = model.dit.encoders = None


def block(model: EchoModel, voice: object = None) -> BlockSampler:
    conditions = model.conditions(TEXT, voice)  # type: ignore[arg-type]
    return model.sampler(conditions, model.empty_prefix(), BLOCK, SamplerParams(), (0, 0, 0, 0))


def test_a_blocking_copy_is_noticed(kernels: Kernels) -> None:
    on_device = torch.zeros(3, device=CUDA)
    with pytest.raises(HiddenSync, match="blocks the host"):
        on_device.cpu()
    with pytest.raises(HiddenSync, match="pageable"):
        on_device.copy_(torch.zeros(3), non_blocking=True)
    with pytest.raises(RuntimeError):
        on_device.sum().item()
    with pytest.raises(RuntimeError):
        on_device.nonzero()
    with pytest.raises(RuntimeError, match="device"):
        on_device + torch.zeros(3)
    on_device.copy_(torch.zeros(3).pin_memory(), non_blocking=True)


def test_a_text_is_encoded_without_a_wait(model: EchoModel, kernels: Kernels) -> None:
    with at_most(570, kernels):
        conditions = model.conditions(TEXT, None)
    assert conditions.text.shape == (24, 2, 16, 100, 128)
    assert (conditions.text.device, conditions.text.dtype) == (CUDA, torch.bfloat16)


def test_a_prefix_is_encoded_without_a_wait(model: EchoModel, kernels: Kernels) -> None:
    latents = torch.zeros(32, 80, device=CUDA)
    prefix = model.extend(model.empty_prefix(), latents)
    with at_most(810, kernels):
        prefix = model.extend(prefix, latents)
    assert prefix.kv.shape == (24, 2, 16, 16, 128)


def test_a_step_row_by_row_reads_nothing_back(model: EchoModel, kernels: Kernels) -> None:
    sampler = block(model)
    with at_most(1400, kernels):
        model.step([sampler])
    assert (sampler.latents.device, sampler.latents.dtype) == (CUDA, torch.float32)


def test_a_captured_step_is_one_attention_call_a_layer_and_source(model: EchoModel, kernels: Kernels) -> None:
    dit = model.dit
    kernels.strict = False
    dit.arena = Arena(24, 16, 128, 20_000, dtype=dit.dtype, device=CUDA)
    launched = {}

    def capture(run):  # type: ignore[no-untyped-def]
        before = kernels.by_name.copy()
        out = run()
        launched[len(out)] = kernels.by_name - before
        return lambda: out

    forward = CapturedForward(dit, dit.arena, max_rows=64, buckets=(96, BUCKETS[-1]), capture=capture)
    forward.capture()
    dit.captured = forward
    kernels.strict = True
    for found in launched.values():
        assert found["_flash_attention_forward"] == 2 * 24
        assert found.total() <= 1400
    sampler = block(model)
    with at_most(8, kernels):  # beside the replay
        model.step([sampler])
    assert forward.misses == 0


def replaying(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Stands in for CUDA graphs: the launches of a replay do not count."""
    out = run()
    return lambda: out


def test_captured_texts_and_prefixes_launch_a_handful_beside_the_replay(model: EchoModel, kernels: Kernels) -> None:
    kernels.strict = False
    encoders = CapturedEncoders(model.dit, texts=(128,), patches=(8,), capture=replaying)
    encoders.capture()
    model.dit.encoders = encoders
    kernels.strict = True
    with at_most(2, kernels):
        conditions = model.conditions(TEXT, None)
    assert (conditions.text.shape, conditions.text.device) == ((24, 2, 16, 100, 128), CUDA)
    latents = torch.zeros(32, 80, device=CUDA)
    prefix = model.extend(model.empty_prefix(), latents)
    with at_most(12, kernels):
        prefix = model.extend(prefix, latents)
    assert (prefix.kv.shape, prefix.kv.device) == ((24, 2, 16, 16, 128), CUDA)
    assert encoders.misses == 0


def test_captured_decoding_launches_a_handful_beside_the_replay(model: EchoModel, kernels: Kernels) -> None:
    kernels.strict = False
    decoder = CapturedDecoder(
        model.autoencoder, model.pca, slots=16, shapes=(Shape(1, 32), Shape(2, 32)), capture=replaying
    )
    with at_most(2150, kernels):
        decoder.capture()
    model.decoder.captured = decoder
    kernels.strict = True
    latents = torch.zeros(28, 80, device=CUDA)
    launched = model.decoder.launch([None, None], [latents, latents])
    with at_most(8, kernels):
        launched = model.decoder.launch(launched.states, [latents, latents])
    assert launched.states[0].position == 56
    assert decoder.misses == 0


def test_on_cuda_the_arena_has_room_for_the_budget_and_without_graphs_there_is_none(
    model: EchoModel, kernels: Kernels, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kernels.strict = False
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60 * 2**30, 80 * 2**30))
    prepare = partial(
        accelerate, model, "x", max_rows=64, budget=2**30, jobs=128, artifacts=tmp_path, compile=False, compile_ae=False
    )
    prepare(graphs=False)
    assert model.dit.arena is None
    acceleration = prepare(graphs=True)
    assert model.dit.arena is not None
    key_bytes = 24 * 2 * 16 * 128 * 2
    assert model.dit.arena.free == int(1.25 * 2**30) // key_bytes  # beside those of padding
    assert acceleration.misses == 0


def test_a_voice_is_encoded_in_slices_without_a_wait(model: EchoModel, kernels: Kernels) -> None:
    slices = 0
    work = model.encode_voice_in_slices(np.zeros(441_000, np.float32))
    while True:
        try:
            next(work)
            slices += 1
        except StopIteration as end:
            voice = end.value
            break
    assert slices >= 4
    assert voice.keys == 53
    sampler = block(model, voice)
    assert sampler.next_rows == 3
    model.step([sampler])


def test_a_block_is_decoded_without_a_wait(model: EchoModel, kernels: Kernels) -> None:
    latents = torch.zeros(32, 80, device=CUDA)
    launched = model.decoder.launch([None, None], [latents, latents])
    with at_most(680, kernels):
        launched = model.decoder.launch(launched.states, [latents, latents])
    assert launched.states[0].position == 64


def test_the_end_of_speech_is_looked_for_without_a_wait_and_decoding_can_be_queued_before_it_is_read(
    model: EchoModel, kernels: Kernels
) -> None:
    latents = torch.zeros(32, 80, device=CUDA)
    with at_most(14, kernels):
        find = model.speech_end([latents, latents], TailRules(), last=True)
    model.decoder.launch([None], [latents])
    assert callable(find)
