"""The stages on CUDA tensors without data: what would mix devices or dtypes on a GPU fails here."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.light import decoder, engine, light, model, steps
from bench.light.journal import Log, read
from bench.light.light import Light
from bench.light.shapes import TINY
from bench.roofline import Ceilings
from echo.model.autoencoder import Autoencoder, streaming
from echo.model.cuda.graphs import flash
from echo.model.echo import EchoModel
from echo.model.files.weights import LoadedEcho
from echo.model.network.dit import EchoDiT
from echo.text.tokenize import encode
from tests.unit.model.cuda.fake_cuda import CUDA, FakeCuda, fake_runtime, pca_without_data, without_data

#: One number on the host would be computed with, and there is nothing to compute it: no step of one row.
SHAPES = replace(
    TINY, dtype=torch.bfloat16, buckets=(96, 192), shown=(96,), decoder_dtypes=("tf32", "bfloat16"), measure_s=0.0
)


class FakeLight(Light):
    """With stand-ins for graphs, which need a device, and for ceilings, which need time."""

    def graphs(self) -> dict[str, Any]:
        def capture(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
            run()
            return run

        return {"capture": capture}

    def stand_ins(self) -> dict[str, Any]:
        return {**self.graphs(), "kernel": flash}

    def dit(self) -> EchoDiT:
        return without_data(lambda: EchoDiT(SHAPES.dit), CUDA, SHAPES.dtype).fuse()

    def autoencoder(self, dtype: str) -> Autoencoder:
        number = torch.bfloat16 if dtype == "bfloat16" else torch.float32
        return without_data(lambda: Autoencoder(SHAPES.autoencoder).fold_weight_norm(), CUDA, number)

    @cached_property
    def model(self) -> EchoModel:
        pca = pca_without_data(SHAPES.autoencoder.latent_dim, CUDA)
        return EchoModel(LoadedEcho(self.dit(), self.autoencoder("float32"), pca, {}), encode, max_speaker_latents=640)

    def ceilings(self, dtype: str) -> Ceilings:
        return Ceilings(dtype, 800.0, 3000.0)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake_runtime(monkeypatch)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**30, 2**31))
    for name in ("synchronize", "set_device", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda device=None: None)
    monkeypatch.setattr(light, "prepare_cuda", lambda: None)
    monkeypatch.setattr(steps, "_kernels", lambda *arguments: None)  # a profile needs kernels
    # A generator of a device that is not there; without data nothing is drawn.
    monkeypatch.setattr(torch, "Generator", _Generator)
    for name in ("randn", "randint"):
        monkeypatch.setattr(torch, name, _without_generator(getattr(torch, name)))
    for name in ("normal_", "uniform_"):
        monkeypatch.setattr(Tensor, name, _without_generator(getattr(Tensor, name)))
    monkeypatch.setattr(streaming.Launched, "fetch", lambda self: list(self._host))
    return FakeCuda()


class _Generator:
    def __init__(self, device: object = None) -> None:
        pass

    def manual_seed(self, seed: int) -> _Generator:
        return self


def _without_generator(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments, generator=None, **named: function(*arguments, **named)


@pytest.mark.slow
def test_steps_encoders_and_decoder_stay_on_the_device(cuda: FakeCuda, tmp_path: Path) -> None:
    with cuda() as kernels:
        kernels.strict = False
        fake = FakeLight(SHAPES, CUDA, compile=False, cache=tmp_path, vectors=tmp_path)
        log = Log(tmp_path / "lines", "machine")
        log.begin(time.monotonic() + 600)
        forward = fake.forward()
        forward.capture()
        fake.model.dit.captured = forward
        steps._steps(fake, log, "captured")
        dit = fake.model.dit
        model._new_texts(fake, log)
        for dtype in SHAPES.decoder_dtypes:
            plain = streaming.StreamingDecoder(fake.autoencoder(dtype), fake.model.pca)
            decoder._timed(fake, log, plain, 2, 4, dtype, "as written")
        voice = fake.model.encode_voice(engine.clip(1.0))
        engine._parts(fake, voice, log)
        assert dit.device == CUDA
    rows = read(tmp_path / "lines")["machine"].rows
    assert {row["kind"] for row in rows} >= {"step", "new text", "decode", "part"}
    assert {row["cudnn_attention"] for row in rows if row["kind"] == "new text"} == {"on", "off"}
    assert kernels.by_name["_flash_attention_forward"] > 0


def test_a_device_without_a_number_is_the_current_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(light, "prepare_cuda", lambda: None)
    for name in ("cuda", "cuda:1"):
        Light(TINY, torch.device(name), compile=False, cache=tmp_path, vectors=tmp_path)
    assert chosen == [torch.device("cuda:1")]
