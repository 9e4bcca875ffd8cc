"""Settings -> a loaded engine: which model, on which devices, in which number format."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import nn

from echo.engines.block import BlockEngine
from echo.errors import ConfigError
from echo.model.compile import Artifacts, Compiler, artifact_key, obstacle
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
        _encode_sentence if loaded.config.get("engine", {}).get("end_mark") else encode,
        max_speaker_latents=settings.max_speaker_latents,
        voices_on_device=settings.cache_speaker_on_gpu,
    )
    info = describe(loaded, device, settings.max_concurrent or _CONCURRENT[device.type])
    log.info("%s on %s: %.1f M parameters", source, device, sum(p.numel() for p in loaded.dit.parameters()) / 1e6)
    workers = ThreadPoolExecutor(2, thread_name_prefix="echo-vad") if gate is not None else None
    return BlockEngine(
        model,
        info,
        Limits(max_jobs=info.concurrent),
        gate=gate,
        workers=workers,
        after_warm_up=compile_parts(settings, loaded, source),
    )


def compile_parts(
    settings: Settings,
    loaded: LoadedEcho,
    source: str,
    *,
    compile: Callable[..., Any] = torch.compile,
    anywhere: bool = False,
) -> Callable[[], None] | None:
    """Have the parts that the settings name compiled by the warm-up; None when there are none.

    Returns what is to be called once after the warm-up. ``anywhere`` compiles for every device, not only where it is
    expected to work.
    """
    dit, autoencoder = loaded.dit, loaded.autoencoder
    # Parts of a block, not the whole: its attention fills and reads overlapping views of the keys, which torch.compile
    # refuses, and takes a list as long as the batch, for each length of which it would compile anew.
    block_methods = [(block, method) for block in dit.blocks for method in ("before_attention", "after_attention")]
    parts: list[tuple[str, bool, torch.device, list[tuple[nn.Module, str]]]] = [
        ("the model", settings.compile, dit.device, block_methods),
        ("the decoder", settings.compile_ae, autoencoder.device, [(autoencoder, "decode_piece")]),
    ]
    compilers = []
    for name, wanted, device, methods in parts:
        reason = None if anywhere else obstacle(device)
        if wanted and reason is not None:
            log.info("%s is not compiled: %s", name, reason)
        elif wanted:
            compiler = Compiler(name, compile)
            for owner, method in methods:
                compiler.add(owner, method)
            compilers.append(compiler)
    if not compilers:
        return None
    device_name = torch.cuda.get_device_name(dit.device) if dit.device.type == "cuda" else dit.device.type
    folder = settings.cache_dir.expanduser() / settings.cache_version
    artifacts = Artifacts(folder / f"{artifact_key(device_name, source)}.bin")
    artifacts.load()

    def after_warm_up() -> None:
        for compiler in compilers:
            compiler.seal()
        if any(compiler.active for compiler in compilers):
            artifacts.save()

    return after_warm_up


def _encode_sentence(text: str) -> list[int]:
    """Tokenize for a model that has only seen sentences with an end mark, and is silent for a bare word."""
    return encode(f"{text}." if text[-1:].isalnum() else text)


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
