"""The engines a benchmark can drive: every model the server knows, random weights, and fakes that cost nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from echo.engines.base import Engine
from echo.engines.block import BlockEngine
from echo.engines.fake import FakeEngine, FakeScript
from echo.engines.load import describe, load_engine, pick_device, pick_dtype
from echo.model.echo import EchoModel
from echo.model.weights import LoadedEcho, load_echo, random_echo
from echo.scheduler.policy import Limits
from echo.settings import Settings
from echo.stream import FrameStream
from echo.text.tokenize import encode
from echo.types import MAX_LATENTS, SAMPLE_RATE, SAMPLES_PER_LATENT, Audio, EngineInfo, Utterance, VoiceState
from echo.vad import SilenceGate

#: ``random-base`` has the released shapes, ``random-tiny`` those of the embedded model.
RANDOM = "random-"
#: Returns every block at once.
FAKE = "fake"
#: Hands a block out when a listener has heard the one before it: a real-time stream that costs nothing to make.
FAKE_PACED = "fake-paced"

#: Jobs at a time of a random model where the operator does not say, as in ``echo.engines.load``.
_CONCURRENT = {"cpu": 8, "mps": 8, "cuda": 64}


def known_to_the_server(model: str) -> bool:
    """Whether ``api_server.py`` itself can load this model."""
    return not (model.startswith(RANDOM) or model in (FAKE, FAKE_PACED))


def open_engine(settings: Settings, gate: SilenceGate | None = None) -> Engine:
    """Load what ``settings.model_repo`` names; a Runtime's ``load_engine``."""
    if settings.model_repo in (FAKE, FAKE_PACED):
        return fake_engine(paced=settings.model_repo == FAKE_PACED)
    if known_to_the_server(settings.model_repo):
        return load_engine(settings, gate)
    device = device_of(settings)
    loaded = load_parts(settings)
    info = describe(loaded, device, settings.max_concurrent or _CONCURRENT[device.type])
    return BlockEngine(open_model(settings, loaded), info, Limits(max_jobs=info.concurrent))


def device_of(settings: Settings) -> torch.device:
    """The device that the settings choose."""
    return pick_device(settings.device, "ECHO_DEVICE")


def load_parts(settings: Settings) -> LoadedEcho:
    """Load a model's parts, or make them with random weights."""
    device = device_of(settings)
    if settings.cpu_threads:
        torch.set_num_threads(settings.cpu_threads)
    dtype, ae_dtype = pick_dtype(settings.model_dtype, device), getattr(torch, settings.fish_dtype)
    if settings.model_repo.startswith(RANDOM):
        shapes = settings.model_repo.removeprefix(RANDOM)
        return random_echo(shapes, device=device, dtype=dtype, ae_dtype=ae_dtype)
    return load_echo(
        settings.model_repo,
        pca_source=settings.pca_repo or None,
        fish_source=settings.fish_repo,
        device=device,
        dtype=dtype,
        ae_dtype=ae_dtype,
    )


def open_model(settings: Settings, parts: LoadedEcho) -> EchoModel:
    """Put the parts together as the server does."""
    return EchoModel(
        parts,
        encode,
        max_speaker_latents=settings.max_speaker_latents,
        voices_on_device=settings.cache_speaker_on_gpu,
    )


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


class Watched(Engine):
    """Passes everything on to an engine and tells ``notice`` of every stream that it starts."""

    def __init__(self, engine: Engine, notice: Callable[[Utterance, FrameStream], None]) -> None:
        self._engine = engine
        self._notice = notice

    @property
    def info(self) -> EngineInfo:
        """The engine's."""
        return self._engine.info

    def admit(self) -> None:
        """Ask the engine."""
        self._engine.admit()

    def encode_voice(self, audio: Audio) -> VoiceState:
        """Have the engine encode it."""
        return self._engine.encode_voice(audio)

    def speak(self, utterance: Utterance) -> FrameStream:
        """Have the engine speak, and note its stream."""
        stream = self._engine.speak(utterance)
        self._notice(utterance, stream)
        return stream

    def warm_up(self, utterance: Utterance) -> None:
        """Warm the engine up."""
        self._engine.warm_up(utterance)

    def healthy(self) -> bool:
        """Ask the engine."""
        return self._engine.healthy()

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()
