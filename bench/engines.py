"""The engines a benchmark can drive: every model the server knows, random weights, and fakes that cost nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from echo.engines.accelerate import accelerate
from echo.engines.base import Engine
from echo.engines.fake import FakeEngine, FakeScript
from echo.engines.load import job_limits, load_engine, load_weights, pick_decoder_device, pick_device, pick_dtype
from echo.model.echo import EchoModel
from echo.model.files.weights import LoadedEcho, random_echo
from echo.presets import load_presets
from echo.settings import Settings
from echo.stream import FrameStream
from echo.text.tokenize import encode
from echo.types import (
    MAX_LATENTS,
    SAMPLE_RATE,
    SAMPLES_PER_LATENT,
    Audio,
    BlockPlan,
    BlockSpec,
    EngineInfo,
    SamplerParams,
    Utterance,
)
from echo.vad import SilenceGate

#: ``random-base`` has the released shapes, ``random-tiny`` those of the embedded model.
RANDOM = "random-"
#: Returns every block at once.
FAKE = "fake"
#: Hands a block out when a listener has heard the one before it: a real-time stream that costs nothing to make.
FAKE_PACED = "fake-paced"


def known_to_the_server(model: str) -> bool:
    """Whether ``api_server.py`` itself can load this model."""
    return not (model.startswith(RANDOM) or model in (FAKE, FAKE_PACED))


def open_engine(settings: Settings, gate: SilenceGate | None = None) -> Engine:
    """Load what ``settings.model_repo`` names; a Runtime's ``load_engine``."""
    if settings.model_repo in (FAKE, FAKE_PACED):
        return fake_engine(paced=settings.model_repo == FAKE_PACED)
    return load_engine(settings, gate, load_parts(settings))


def device_of(settings: Settings) -> torch.device:
    """The device that the settings choose."""
    return pick_device(settings.device, "ECHO_DEVICE")


def load_parts(settings: Settings) -> LoadedEcho:
    """Load a model's weights, or make random ones."""
    if not settings.model_repo.startswith(RANDOM):
        return load_weights(settings)
    device = device_of(settings)
    return random_echo(
        settings.model_repo.removeprefix(RANDOM),
        device=device,
        ae_device=pick_decoder_device(settings),
        dtype=pick_dtype(settings.model_dtype, device),
        ae_dtype=getattr(torch, settings.fish_dtype),
    )


def open_model(settings: Settings, parts: LoadedEcho) -> EchoModel:
    """Put the parts together as the server does, to be called directly, and warm: with all that makes it fast there."""
    if settings.cpu_threads:
        torch.set_num_threads(settings.cpu_threads)
    model = EchoModel(
        parts,
        encode,
        max_speaker_latents=settings.max_speaker_latents,
        voices_on_device=settings.cache_speaker_on_gpu,
    )
    limits = job_limits(settings, model.dit.device, 1)
    acceleration = accelerate(
        settings, model, settings.model_repo, max_rows=limits.max_rows, budget=int(limits.max_bytes)
    )
    conditions, spec = model.conditions("Good morning.", None), BlockSpec(size=32, steps=2)
    for count in (1, 2):
        samplers = [
            model.sampler(conditions, model.empty_prefix(), spec, SamplerParams(), (i, 0, 0, 0)) for i in range(count)
        ]
        while not samplers[0].done:
            model.step(samplers)
        model.decode([None] * count, [sampler.latents for sampler in samplers])()
    acceleration.finish()
    return model


def plan_of(settings: Settings, info: EngineInfo) -> BlockPlan:
    """The plan of a streamed request without options."""
    presets = load_presets(
        settings.presets_path,
        info.preset_family,
        settings.performance_preset,
        nonstream_steps=settings.num_steps_nonstream,
        max_latents=info.max_latents,
        max_layers=info.num_layers,
    )
    return presets.plan({}, streaming=True)


def fake_engine(*, paced: bool) -> FakeEngine:
    """An engine without a model, whose audio is a slice of one ready-made sweep of tones."""
    n = MAX_LATENTS * SAMPLES_PER_LATENT
    seconds = np.arange(n) / SAMPLE_RATE
    sweep = np.asarray(0.2 * np.sin(2 * np.pi * (200 + 40 * seconds) * seconds), np.float32)

    def render(utterance: Utterance, block: int, count: int) -> Audio:
        before = sum(spec.size for spec in utterance.plan.blocks[:block]) * SAMPLES_PER_LATENT
        if paced and block:
            time.sleep(utterance.plan.blocks[block - 1].size * SAMPLES_PER_LATENT / SAMPLE_RATE)
        return sweep[before : before + count]

    engine = FakeEngine(FakeScript(render=render))
    return FakeEngine(engine.script, replace(engine.info, name=FAKE_PACED if paced else FAKE))


def watch(engine: Engine, notice: Callable[[Utterance, FrameStream], None]) -> None:
    """Have ``notice`` told of every stream that the engine starts."""
    speak = engine.speak

    def noticed(utterance: Utterance) -> FrameStream:
        stream = speak(utterance)
        notice(utterance, stream)
        return stream

    vars(engine)["speak"] = noticed


def recompiles(engine: Engine) -> int:
    """Calls since the warm-up of a shape that nothing was compiled or recorded for."""
    return engine.load().shape_misses
