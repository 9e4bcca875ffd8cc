"""Settings -> a loaded engine: which model, on which devices, in which number format."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

import torch

from echo.engines.block import BlockEngine
from echo.errors import ConfigError
from echo.model.echo import EchoModel
from echo.model.weights import LoadedEcho, load_echo
from echo.scheduler.policy import Limits
from echo.settings import BASE_MODEL, TINY_MODEL, Settings
from echo.text.tokenize import encode
from echo.types import MAX_LATENTS, SAMPLE_RATE, ChunkRules, EngineInfo
from echo.vad import SilenceGate

log = logging.getLogger(__name__)

_PREVIEW = """
    ------------------------------------------------------------------------------------------
    No CUDA device was found and ECHO_MODEL_REPO is not set, so the embedded PREVIEW model speaks.
    It is very small: understandable, but rough. For the real voice use a machine with a GPU, or
    set ECHO_MODEL_REPO=jordand/echo-tts-base (5.6 GB; slow without a GPU; CC-BY-NC-SA-4.0).
    ------------------------------------------------------------------------------------------"""

#: Utterances in work at a time where the operator does not say: beyond this a CPU only shares its time out thinner.
_CONCURRENT = {"cpu": 8, "mps": 8, "cuda": 64}


def load_engine(settings: Settings, gate: SilenceGate | None) -> BlockEngine:
    """Load the model that the settings name; raises LoadError or ConfigError with one line for the operator."""
    device = pick_device(settings.device, "ECHO_DEVICE")
    decoder_device = device if settings.fish_device == "auto" else pick_device(settings.fish_device, "ECHO_FISH_DEVICE")
    source = settings.model_repo or (BASE_MODEL if device.type == "cuda" else TINY_MODEL)
    if not settings.model_repo and source == TINY_MODEL:
        log.warning("%s", _PREVIEW)
    if settings.cpu_threads:
        torch.set_num_threads(settings.cpu_threads)
    loaded = load_echo(
        source,
        pca_source=settings.pca_repo or None,
        fish_source=settings.fish_repo,
        device=device,
        ae_device=decoder_device,
        dtype=pick_dtype(settings.model_dtype, device),
        ae_dtype=getattr(torch, settings.fish_dtype),
    )
    model = EchoModel(
        loaded,
        encode,
        max_speaker_latents=settings.max_speaker_latents,
        voices_on_device=settings.cache_speaker_on_gpu,
    )
    info = describe(loaded, device, settings.max_concurrent or _CONCURRENT[device.type])
    log.info("%s on %s: %.1f M parameters", source, device, sum(p.numel() for p in loaded.dit.parameters()) / 1e6)
    workers = ThreadPoolExecutor(2, thread_name_prefix="echo-vad") if gate is not None else None
    return BlockEngine(model, info, Limits(max_jobs=info.concurrent), gate=gate, workers=workers)


def describe(loaded: LoadedEcho, device: torch.device, concurrent: int) -> EngineInfo:
    """Return what an engine says of itself: the ``engine`` table of the model's config.json, else Echo-TTS's own."""
    said = loaded.config.get("engine", {})
    return EngineInfo(
        name=said.get("name", "echo-tts"),
        preset_family=said.get("presets", "echo"),
        sample_rate=SAMPLE_RATE,
        device=str(device),
        backend=f"torch {torch.__version__}",
        license=said.get("license", "CC-BY-NC-SA-4.0"),
        preview=said.get("preview", False),
        max_latents=said.get("max_latents", MAX_LATENTS),
        num_layers=loaded.dit.config.num_layers,
        chunk_rules=ChunkRules(**said.get("chunks", {})),
        concurrent=concurrent,
    )


def pick_device(name: str, variable: str) -> torch.device:
    """Resolve ``auto`` and check that a named device is there; raises ConfigError naming the variable."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(name)
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if not there[device.type]:
        raise ConfigError(f"{variable}={name}: this machine has no such device; use auto or cpu.")
    return device


def pick_dtype(name: str | None, device: torch.device) -> torch.dtype:
    """Return the model's number format: bfloat16 as released, float32 on a CPU."""
    if name is not None:
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    return torch.float32 if device.type == "cpu" else torch.bfloat16
