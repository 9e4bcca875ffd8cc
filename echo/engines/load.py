"""Settings -> the Echo engine: which model, on which devices, in which number format."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from echo.engines.accelerate import Acceleration, accelerate, prepare_cuda
from echo.engines.block import BlockEngine
from echo.engines.heads import TextHeads
from echo.errors import ConfigError
from echo.model.echo import EchoModel
from echo.model.files.weights import LoadedEcho, load_echo
from echo.scheduler.cores import CoreThreads, available_cores
from echo.scheduler.loop import STALL_S
from echo.scheduler.policy import Limits
from echo.settings import Settings
from echo.sources import BASE_MODEL, TINY_MODEL
from echo.text.tokenize import encode, encode_sentence
from echo.types import MAX_LATENTS, SAMPLE_RATE, ChunkRules, DeviceMemory, EngineInfo
from echo.vad import SilenceGate

log = logging.getLogger(__name__)

_PREVIEW = """
    ------------------------------------------------------------------------------------------
    No CUDA device was found and ECHO_MODEL_REPO is not set, so the embedded PREVIEW model speaks.
    It is very small and not as clear as the released model. For that use a machine with a GPU, or
    set ECHO_MODEL_REPO=jordand/echo-tts-base (5.6 GB; slow without a GPU; CC-BY-NC-SA-4.0).
    ------------------------------------------------------------------------------------------"""

#: Default of ECHO_MAX_CONCURRENT. With more, a CPU only makes each utterance slower.
_CONCURRENT = {"cpu": 8, "mps": 8, "cuda": 128}

#: A step of the released model in its largest block takes minutes on a small CPU.
_SLOW_STALL_S = 600.0

#: Parameters below which one core is fast enough for an utterance, so that each utterance gets a core of its own.
_SMALL = 100_000_000

#: Row-latents of a step beyond which a CPU's time grows in proportion (measured with the embedded model).
_CPU_ROW_LATENTS = 384
#: Default of ECHO_KV_BUDGET_MB: on a CPU in bytes, on a GPU as a share of what the model leaves free. The rest is for
#: activations, CUDA graphs, decoding, and the encoding of voices.
_BUDGET_BYTES = 4096 * 2**20
_BUDGET_SHARE = 0.6
#: Largest share of what the model leaves free on a GPU that encoded voices may keep.
_VOICE_SHARE = 0.25

#: Instructions that make matrix products in bfloat16 faster than in float32 on a CPU.
_BFLOAT16 = ("avx512_bf16", "amx_bf16", "sve_bf16")


def load_weights(settings: Settings) -> LoadedEcho:
    """Read the model that the settings name; raises LoadError or ConfigError with one line for the operator."""
    device = pick_device(settings.device, "ECHO_DEVICE")
    source = _source(settings, device)
    if not settings.model_repo and source == TINY_MODEL:
        log.warning("%s", _PREVIEW)
    return load_echo(
        source,
        pca_source=settings.pca_repo or None,
        fish_source=settings.fish_repo,
        device=device,
        ae_device=pick_decoder_device(settings),
        dtype=pick_dtype(settings.model_dtype, device),
        ae_dtype=getattr(torch, settings.fish_dtype),
    )


def load_engine(settings: Settings, gate: SilenceGate | None, loaded: LoadedEcho | None = None) -> BlockEngine:
    """Build the Echo engine that the settings describe; an EngineLoader.

    loaded  a model that is in memory already, on the devices of the settings; None = ``load_weights(settings)``

    Raises as ``load_weights`` does.
    """
    if settings.cpu_threads:
        torch.set_num_threads(settings.cpu_threads)
    loaded = loaded or load_weights(settings)
    device, decoder_device = pick_device(settings.device, "ECHO_DEVICE"), pick_decoder_device(settings)
    if "cuda" in (device.type, decoder_device.type):
        prepare_cuda()
    source = _source(settings, device)
    model = EchoModel(
        loaded,
        encode_sentence if loaded.config.get("engine", {}).get("end_mark") else encode,
        max_speaker_latents=settings.max_speaker_latents,
        resident_bytes=resident_bytes(settings, device),
    )
    info = describe(loaded, device, settings.max_concurrent or _CONCURRENT[device.type])
    parameters = sum(p.numel() for p in loaded.dit.parameters())
    log.info("%s on %s: %.1f M parameters", source, device, parameters / 1e6)
    on_cpu = device.type == decoder_device.type == "cpu"
    workers = None if on_cpu and gate is None else ThreadPoolExecutor(2, thread_name_prefix="echo-worker")
    cores = CoreThreads(settings.cpu_threads or available_cores()) if on_cpu and parameters < _SMALL else None
    limits = job_limits(settings, device, info.concurrent)
    return BlockEngine(
        model,
        info,
        limits,
        gate=gate,
        workers=workers,
        cores=cores,
        acceleration=accelerated(settings, model, source, limits),
        memory=partial(cuda_memory, device) if device.type == "cuda" else None,
        heads=TextHeads(loaded.dit, loaded.weights, cache_folder(settings), model.tokenize),
        stall_s=settings.device_timeout_s or (STALL_S if device.type == "cuda" else _SLOW_STALL_S),
    )


def accelerated(settings: Settings, model: EchoModel, source: str, limits: Limits) -> Acceleration:
    """Prepare what the settings turn on for a model from ``source``."""
    return accelerate(
        model,
        source,
        max_rows=limits.max_rows,
        budget=int(limits.max_bytes),
        jobs=limits.max_jobs,
        artifacts=cache_folder(settings),
        compile=settings.compile,
        compile_ae=settings.compile_ae,
        graphs=settings.cuda_graphs,
    )


def cache_folder(settings: Settings) -> Path:
    """Return the folder for what was made of a model and spares work at the next start."""
    return settings.cache_dir.expanduser() / settings.cache_version


def _source(settings: Settings, device: torch.device) -> str:
    return settings.model_repo or (BASE_MODEL if device.type == "cuda" else TINY_MODEL)


def describe(loaded: LoadedEcho, device: torch.device, concurrent: int) -> EngineInfo:
    """Describe the engine: the ``engine`` table of the model's config.json, by default Echo-TTS's own values."""
    given = loaded.config.get("engine", {})
    return EngineInfo(
        name=given.get("name", "echo-tts"),
        preset_family=given.get("presets", "echo"),
        sample_rate=SAMPLE_RATE,
        device=str(device),
        backend=f"torch {torch.__version__}",
        license=given.get("license", "CC-BY-NC-SA-4.0"),
        max_latents=given.get("max_latents", MAX_LATENTS),
        num_layers=loaded.dit.config.num_layers,
        chunk_rules=ChunkRules(**given.get("chunks", {})),
        concurrent=concurrent,
        words_only=given.get("words_only", False),
    )


def job_limits(settings: Settings, device: torch.device, concurrent: int) -> Limits:
    """Return how many jobs share the device; call it once the model is loaded, when the free memory is known."""
    limits = Limits(max_jobs=concurrent, max_bytes=memory_budget(settings, device), mix_sizes=device.type == "cuda")
    return replace(limits, max_row_latents=_CPU_ROW_LATENTS) if device.type == "cpu" else limits


def memory_budget(settings: Settings, device: torch.device) -> int:
    """Return the bytes of device memory that active utterances may take."""
    if settings.kv_budget_mb:
        return settings.kv_budget_mb * 2**20
    if device.type != "cuda":
        return _BUDGET_BYTES
    free, _ = torch.cuda.mem_get_info(device)
    return max(0, int(_BUDGET_SHARE * (free - resident_bytes(settings, device))))


def cuda_memory(device: torch.device) -> DeviceMemory:
    """Read the memory of a CUDA device."""
    free, total = torch.cuda.mem_get_info(device)
    return DeviceMemory(
        allocated=torch.cuda.memory_allocated(device),
        reserved=torch.cuda.memory_reserved(device),
        free=free,
        total=total,
    )


def resident_bytes(settings: Settings, device: torch.device) -> int:
    """Return the bytes of device memory that encoded voices may keep; once the model is loaded."""
    if device.type != "cuda" or not settings.cache_speaker_on_gpu:
        return 0
    free, _ = torch.cuda.mem_get_info(device)
    return min(settings.voice_cache_bytes, int(_VOICE_SHARE * free))


def pick_device(name: str, variable: str) -> torch.device:
    """Resolve ``auto`` and check that a named device is there; raises ConfigError naming the variable."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(name)
    available = {
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if not available[device.type]:
        raise ConfigError(f"{variable}={name}: this machine has no such device; use auto or cpu.")
    return device


def pick_decoder_device(settings: Settings) -> torch.device:
    """Return the autoencoder's device: the model's, unless the settings name another; raises ConfigError."""
    if settings.fish_device == "auto":
        return pick_device(settings.device, "ECHO_DEVICE")
    return pick_device(settings.fish_device, "ECHO_FISH_DEVICE")


def pick_dtype(name: str | None, device: torch.device) -> torch.dtype:
    """Return the model's number format: bfloat16 as released, float32 on a CPU that has no instructions for it."""
    if name is not None:
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    if device.type != "cpu":
        return torch.bfloat16
    capabilities = torch.cpu.get_capabilities()
    return torch.bfloat16 if any(capabilities.get(name) for name in _BFLOAT16) else torch.float32
