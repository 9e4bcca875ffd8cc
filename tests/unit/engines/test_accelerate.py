"""An engine whose model is compiled and captured, with stand-ins where CUDA is needed: all is ready before requests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from echo.engines.accelerate import Acceleration, compile_blocks, compile_decoder, compile_encoders, make_arena
from echo.engines.block import BlockEngine
from echo.model.autoencoder import Autoencoder
from echo.model.cuda.compile import Artifacts, Compiler
from echo.model.cuda.decoder import CapturedDecoder, Shape
from echo.model.cuda.encoders import CapturedEncoders
from echo.model.cuda.graphs import CapturedForward, attend_row_by_row
from echo.model.echo import EchoModel
from echo.model.files.weights import LoadedEcho, random_autoencoder
from echo.scheduler.policy import Limits
from echo.types import Audio, BlockPlan, BlockSpec, EngineInfo, SamplerParams, TailRules, Utterance
from tests.unit.small_echo import CPU, narrow_release, small_dit, small_pca


def replaying(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Stands in for a CUDA graph: every replay writes to the tensor of the capture."""
    out = run().clone()
    return lambda: out.copy_(run())


def engine(model: EchoModel, tmp_path: Path, *, fast: bool) -> BlockEngine:
    info = EngineInfo(
        name="small", preset_family="echo", sample_rate=44_100, device="cpu", backend="torch", license="", concurrent=8
    )
    acceleration = accelerated(model, tmp_path / "artifacts.bin") if fast else None
    return BlockEngine(model, info, Limits(max_jobs=8, max_rows=24, mix_sizes=True), acceleration=acceleration)


def accelerated(model: EchoModel, artifacts: Path) -> Acceleration:
    """Build every part of an accelerated model as on CUDA, from stand-ins that run on a CPU."""
    compile = partial(torch.compile, backend="eager")
    dit, autoencoder = model.dit, model.autoencoder
    compilers = [
        compile_blocks(dit, Compiler("the model", compile)),
        compile_encoders(dit, Compiler("the encoders", compile)),
        compile_decoder(autoencoder, Compiler("the decoder", compile)),
    ]
    buckets = (32, 64, 256)
    dit.arena = make_arena(dit, 4 * 2**20, buckets[-1])
    shapes = (Shape(1, 8), Shape(2, 8), Shape(4, 8), Shape(1, 16))
    return Acceleration(
        model,
        compilers,
        Artifacts(artifacts),
        forward=CapturedForward(
            dit, dit.arena, max_rows=24, buckets=buckets, kernel=attend_row_by_row, capture=replaying
        ),
        encoders=CapturedEncoders(dit, texts=(16, 64), patches=(2, 4, 8), capture=replaying),
        decoder=CapturedDecoder(autoencoder, model.pca, slots=64, shapes=shapes, capture=replaying),
    )


def short_autoencoder() -> Autoencoder:
    """One of each kind of layer: each takes seconds to compile, and is compiled for several shapes."""
    config = narrow_release(n_layer=1)
    config = replace(config, decoder_rates=(512,), quantizer=replace(config.quantizer, downsample_factor=(4,)))
    return random_autoencoder(config, CPU, torch.float32).fold_weight_norm()


def small_model() -> EchoModel:
    loaded = LoadedEcho(small_dit(torch.float32), short_autoencoder(), small_pca(), {})
    return EchoModel(loaded, lambda text: [0, *text.encode()], max_speaker_latents=64)


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[tuple[BlockEngine, BlockEngine]]:
    made = engine(small_model(), tmp_path, fast=True), engine(small_model(), tmp_path, fast=False)
    yield made
    for each in made:
        each.close()


def utterance(i: int) -> Utterance:
    sizes = [(8, 12), (5,), (12, 8, 4), (9, 9)][i % 4]
    params = SamplerParams(cfg_scale_text=1.5 if i % 3 else 0.0, cfg_scale_speaker=2.0 if i % 2 else 0.0)
    plan = BlockPlan(
        blocks=tuple(BlockSpec(size=size, steps=2 + i % 2) for size in sizes),
        params=params,
        tail=TailRules(early_stop_on_zero=False),
    )
    return Utterance(text="One two three four five. "[: 4 + 3 * i], plan=plan, seed=i)


def speak(engine: BlockEngine, wanted: list[Utterance]) -> list[Audio]:
    streams = [engine.speak(each) for each in wanted]
    return [np.concatenate([frame.samples for frame in stream]) for stream in streams]


@pytest.mark.slow
def test_after_the_warm_up_no_mix_of_requests_meets_a_shape_that_is_not_ready(
    engines: tuple[BlockEngine, BlockEngine],
) -> None:
    fast, plain = engines
    clip = np.sin(np.arange(44_100, dtype=np.float32) / 30)
    voices = {each: each.encode_voice(clip).result() for each in engines}
    for each in engines:
        for i in (0, 5):  # guided and not, with a voice and without
            each.warm_up(utterance(i))
        each.finish_warm_up()

    def requests(engine: BlockEngine) -> list[Utterance]:
        return [replace(utterance(i), voice=voices[engine] if i % 3 else None) for i in range(7)]

    expected = [speak(plain, [each])[0] for each in requests(plain)]
    found = speak(fast, requests(fast))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-3)
    assert fast.workload().shape_misses == 0
