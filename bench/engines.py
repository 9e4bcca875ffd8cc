"""What is measured and with what: engines and models (the server's, random weights, a fake), texts, reference clips."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from bench import ROOT
from echo.audio.wav import pcm_file
from echo.engines import load
from echo.engines.accelerate import accelerate
from echo.engines.base import Engine
from echo.engines.fake import FakeEngine, FakeScript
from echo.engines.load import job_limits, load_engine, pick_decoder_device, pick_device, pick_dtype, resident_bytes
from echo.model.echo import EchoModel
from echo.model.files.weights import LoadedEcho, random_echo
from echo.presets import load_presets
from echo.settings import Settings
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
    SpeechOptions,
    Utterance,
)
from echo.vad import SilenceGate

#: Statements of two to eight seconds, in words that every model knows.
TEXTS = (
    "The train to the coast leaves from the second platform in a quarter of an hour.",
    "Good morning.",
    "She opened the window, looked out over the garden, and saw that it had snowed during the night.",
    "Please keep your ticket until the end of the journey.",
    "There is a small shop on the corner that sells bread, cheese and fresh fruit.",
    "I have not heard from him since the summer, but I am sure that he is well.",
    "Wait a moment, I will ask somebody.",
    "The library is open every day except Sunday, and it has a reading room on the upper floor.",
)

#: Models with random weights: ``random-base`` has the released shapes, ``random-tiny`` those of the embedded model.
RANDOM = "random-"
#: Delivers all blocks immediately.
FAKE = "fake"
#: Delivers a block when the one before it has been played: a real-time stream.
FAKE_PACED = "fake-paced"


def known_to_the_server(model: str) -> bool:
    """Whether ``api_server.py`` itself can load this model."""
    return not (model.startswith(RANDOM) or model in (FAKE, FAKE_PACED))


def open_engine(settings: Settings, gate: SilenceGate | None = None) -> Engine:
    """Load the engine that ``settings.model_repo`` names; a Runtime's ``load_engine``."""
    if settings.model_repo in (FAKE, FAKE_PACED):
        return fake_engine(paced=settings.model_repo == FAKE_PACED)
    return load_engine(settings, gate, load_weights(settings))


def load_weights(settings: Settings) -> LoadedEcho:
    """Load a model's weights, or make random ones."""
    if not settings.model_repo.startswith(RANDOM):
        return load.load_weights(settings)
    device = device_of(settings)
    return random_echo(
        settings.model_repo.removeprefix(RANDOM),
        device=device,
        ae_device=pick_decoder_device(settings),
        dtype=pick_dtype(settings.model_dtype, device),
        ae_dtype=getattr(torch, settings.fish_dtype),
    )


def open_model(settings: Settings, loaded: LoadedEcho) -> EchoModel:
    """Return a warm model to call directly, compiled and captured as the settings say."""
    if settings.cpu_threads:
        torch.set_num_threads(settings.cpu_threads)
    model = EchoModel(
        loaded,
        encode,
        max_speaker_latents=settings.max_speaker_latents,
        resident_bytes=resident_bytes(settings, loaded.dit.device),
    )
    limits = job_limits(settings, model.dit.device, 1)
    acceleration = accelerate(
        settings, model, settings.model_repo, max_rows=limits.max_rows, budget=int(limits.max_bytes)
    )
    conditions, spec = model.conditions(model.tokenize("Good morning."), None), BlockSpec(size=32, steps=2)
    for count in (1, 2):
        samplers = [
            model.sampler(conditions, model.empty_prefix(), spec, SamplerParams(), (i, 0, 0, 0)) for i in range(count)
        ]
        while not samplers[0].done:
            model.step(samplers)
        model.decode([None] * count, [sampler.latents for sampler in samplers])()
    acceleration.finish()
    return model


def device_of(settings: Settings) -> torch.device:
    """Return the device that the settings choose."""
    return pick_device(settings.device, "ECHO_DEVICE")


def plan_of(settings: Settings, info: EngineInfo) -> BlockPlan:
    """Return the block plan of a streamed request without options."""
    presets = load_presets(
        settings.presets_path,
        info.preset_family,
        settings.performance_preset,
        nonstream_steps=settings.num_steps_nonstream,
        max_latents=info.max_latents,
        max_layers=info.num_layers,
    )
    return presets.plan(SpeechOptions(), streaming=True)


def fake_engine(*, paced: bool) -> FakeEngine:
    """Return an engine without a model; its audio is a slice of a sweep computed once."""
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


def reference_clip(seconds: float) -> Audio:
    """Return the bundled voices joined and repeated up to ``seconds``, so that all machines use the same reference."""
    from echo.voices.reference import load_voice  # needs PyAV, which a bare GPU machine may lack
    from echo.voices.voice import ClipVoice

    paths = sorted((ROOT / "audio_prompts").glob("*.flac"))
    speech = np.concatenate([load_voice(ClipVoice(audio=path.read_bytes())).audio for path in paths])
    return np.resize(speech, round(seconds * SAMPLE_RATE))


@contextmanager
def default_voice_of(settings: Settings, seconds: float | None) -> Iterator[Settings]:
    """Yield the settings with a reference clip of this length as default voice; None leaves them as they are."""
    if seconds is None:
        yield settings
        return
    with tempfile.TemporaryDirectory(prefix="echo-bench-") as folder:
        name = f"bench_{seconds:g}s"
        (Path(folder) / f"{name}.wav").write_bytes(pcm_file(reference_clip(seconds), SAMPLE_RATE))
        yield settings.model_copy(update={"voices_dir": (folder,), "default_voice": name})
