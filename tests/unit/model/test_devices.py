"""A model on CUDA devices, with stand-ins for them: what is lost, what stays there, what is set for the process."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from echo.engines.accelerate import prepare_cuda
from echo.model.autoencoder import Autoencoder
from echo.model.echo import EchoModel, Residence
from echo.model.files.weights import LoadedEcho
from echo.model.network.arena import Arena
from echo.model.network.dit import EchoDiT
from tests.unit.small_echo import DIT, small_autoencoder, small_dit, small_pca

CLIP = np.sin(np.arange(2048 * 24, dtype=np.float32) / 30)


def small_model(resident_bytes: int = 0) -> EchoModel:
    loaded = LoadedEcho(small_dit(torch.float32), small_autoencoder(), small_pca(), {})
    return EchoModel(loaded, lambda text: [0, *text.encode()], max_speaker_latents=640, resident_bytes=resident_bytes)


# -- a device that is lost


def place(monkeypatch: pytest.MonkeyPatch, dit: str, autoencoder: str) -> None:
    monkeypatch.setattr(EchoDiT, "device", property(lambda self: torch.device(dit)))
    monkeypatch.setattr(Autoencoder, "device", property(lambda self: torch.device(autoencoder)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dit", "autoencoder", "broken", "lost"),
    [
        ("cuda:0", "cuda:0", "cuda:0", True),
        ("cuda:0", "cuda:0", "none", False),
        ("cuda:0", "cpu", "cuda:0", True),
        ("cpu", "cuda:1", "cuda:1", True),
        ("cuda:0", "cuda:1", "cuda:1", True),
        ("cuda:0", "cuda:1", "none", False),
        ("cpu", "cpu", "none", False),
    ],
)
def test_an_error_that_stays_on_any_of_the_models_devices_is_noticed(
    dit: str, autoencoder: str, broken: str, lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def synchronize(device: torch.device) -> None:
        if str(device) == broken:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    model = small_model()
    place(monkeypatch, dit, autoencoder)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    assert model.lost_with(RuntimeError("CUDA error")) is lost
    assert not model.lost_with(ValueError("a programming error"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "full"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_want_of_memory_is_known_by_its_errors(error: Exception, full: bool) -> None:
    assert small_model().out_of_memory(error) is full


def test_the_allocator_of_the_cpu_says_so_in_these_words() -> None:
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**60, dtype=torch.uint8)
    assert small_model().out_of_memory(refused.value)


# -- voices that stay on the device


@pytest.mark.parametrize("in_arena", [False, True])
def test_voices_stay_on_the_device_within_the_budget_and_those_that_leave_make_room(in_arena: bool) -> None:
    dit = small_dit(torch.float32)
    if in_arena:
        dit.arena = Arena(DIT.num_layers, DIT.num_heads, DIT.head_dim, 30, dtype=dit.dtype, device="cpu")
    voice = torch.randn(DIT.num_layers, 2, DIT.num_heads, 10, DIT.head_dim)
    residence = Residence(2 * voice.nbytes)
    kept = [residence.keep(voice, dit.allocate) for _ in range(2)]
    assert all(each is not None and torch.equal(each, voice) for each in kept)
    assert residence.keep(voice, dit.allocate) is None
    kept.pop()
    kept.append(residence.keep(voice, dit.allocate))
    assert kept[-1] is not None
    assert residence.keep(voice, dit.allocate) is None
    if dit.arena is not None:
        assert dit.arena.free == 10
        kept.clear()
        assert dit.arena.free == 30


def test_an_encoded_voice_that_stays_is_used_as_it_lies_there() -> None:
    voice = small_model(2**20).encode_voice(CLIP)
    assert voice.kv() is voice.kv()
    assert voice.nbytes == voice.kv().nbytes


# -- the process


@pytest.fixture
def as_before() -> Iterator[None]:
    interval, cudnn = sys.getswitchinterval(), torch.backends.cuda.cudnn_sdp_enabled()
    yield
    sys.setswitchinterval(interval)
    torch.backends.cuda.enable_cudnn_sdp(cudnn)


def test_on_cuda_threads_take_short_turns_and_cudnn_plans_no_attention(as_before: None) -> None:
    prepare_cuda()
    assert sys.getswitchinterval() < 0.001
    assert not torch.backends.cuda.cudnn_sdp_enabled()
