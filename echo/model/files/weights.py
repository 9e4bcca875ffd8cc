"""Loads a complete Echo model, builds one with random weights, and writes one in the layout of the release."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from echo.errors import LoadError
from echo.model.autoencoder import RELEASED, Autoencoder, AutoencoderConfig
from echo.model.autoencoder.pca import Pca
from echo.model.files import checkpoint
from echo.model.files.hub import locate
from echo.model.network.config import ECHO_TTS_BASE, DiTConfig
from echo.model.network.dit import EchoDiT
from echo.sources import TINY_MODEL

_ROTARY = "freqs_cis"
#: Boolean n x n matrices in the released autoencoder (302 MB) that nothing uses.
_DEAD_MASK = "causal_mask"
#: Magnitude and direction of a weight-normed convolution.
_MAGNITUDE, _DIRECTION = "parametrizations.weight.original0", "parametrizations.weight.original1"
#: Scales at the end of residual branches: small, so that random weights do not add up over the depth.
_BRANCH_ENDS = ("gamma", f"block.3.conv.{_MAGNITUDE}")


@dataclass(frozen=True, slots=True)
class LoadedEcho:
    """The parts of a model, ready for inference, and the ``config.json`` they came with (may be empty).

    ``dit.blockwise`` is False for a checkpoint without the latent encoder: it speaks an utterance in one block.
    ``weights`` is the transformer's file; None for a model that is from none.
    """

    dit: EchoDiT
    autoencoder: Autoencoder
    pca: Pca
    config: Mapping[str, Any]
    weights: Path | None = None


def load_echo(
    source: str,
    *,
    pca_source: str | None = None,
    fish_source: str | None = None,
    device: torch.device | str = "cpu",
    ae_device: torch.device | str | None = None,
    dtype: torch.dtype = torch.bfloat16,
    ae_dtype: torch.dtype = torch.float32,
) -> LoadedEcho:
    """Load a model from the hub, a folder or the package (``tiny``); see ``hub.locate`` for what a source is.

    ``device`` and ``dtype`` are the transformer's, ``ae_device`` (default: the same) and ``ae_dtype`` the
    autoencoder's; the PCA stays float32, next to the autoencoder. Raises LoadError, one line with the remedy, when
    a file is missing, damaged, or does not fit the shapes.
    """
    device = torch.device(device)
    ae_device = torch.device(ae_device) if ae_device is not None else device
    files = locate(source, pca_source=pca_source, fish_source=fish_source)
    dit_config, ae_config = shapes(files.config)
    pca = load_pca(files.pca).to(ae_device)
    expected = (dit_config.latent_size, ae_config.latent_dim)
    if tuple(pca.components.shape) != expected:
        raise LoadError(f"{files.pca} is for {list(pca.components.shape)} components, the model has {list(expected)}.")
    return LoadedEcho(
        load_dit(files.dit, dit_config, device, dtype),
        load_autoencoder(files.autoencoder, ae_config, ae_device, ae_dtype),
        pca,
        files.config,
        files.dit,
    )


def shapes(config: Mapping[str, Any]) -> tuple[DiTConfig, AutoencoderConfig]:
    """The shapes a ``config.json`` describes; the released ones for a section it does not have."""
    dit, ae = config.get("dit"), config.get("ae")
    return (
        DiTConfig.from_dict(dit) if dit else ECHO_TTS_BASE,
        AutoencoderConfig.from_dict(ae) if ae else RELEASED,
    )


def load_pca(path: Path) -> Pca:
    """Read ``pca_state.safetensors``."""
    cpu = torch.device("cpu")
    keys = checkpoint.read_header(path)
    return Pca.from_state(checkpoint.read(path, keys, lambda key: (cpu, torch.float32)))


def load_dit(path: Path, config: DiTConfig, device: torch.device, dtype: torch.dtype) -> EchoDiT:
    """Read the transformer; without the latent encoder's keys it is built without one."""
    found = checkpoint.read_header(path)
    blockwise = any(key.startswith("latent_encoder.") for key in found)
    with torch.device("meta"):
        dit = EchoDiT(config, blockwise=blockwise)
    keys = checkpoint.check(path, found, _shapes_of(dit))
    dit.load_state_dict(checkpoint.read(path, keys, lambda key: (device, dtype)), assign=True)
    return dit.requires_grad_(False).eval().fuse()


def load_autoencoder(
    path: Path,
    config: AutoencoderConfig,
    device: torch.device,
    dtype: torch.dtype,
    *,
    fold: bool = True,
) -> Autoencoder:
    """Read the autoencoder. ``fold`` turns the weight-normed convolutions into plain ones, rounded once."""
    with torch.device("meta"):
        autoencoder = Autoencoder(config)
    rotary = {f"{name}.{_ROTARY}" for name in autoencoder.transformers()}
    dead = {f"{name}.{_DEAD_MASK}" for name in autoencoder.transformers()}
    found = checkpoint.read_header(path)
    keys = checkpoint.check(path, found, _shapes_of(autoencoder), optional=rotary, ignored=dead)

    def place(key: str) -> tuple[torch.device, torch.dtype]:
        if key in rotary:
            return device, torch.bfloat16
        normed = key.endswith((_MAGNITUDE, _DIRECTION))
        return device, torch.float32 if fold and normed else dtype

    state = checkpoint.read(path, keys, place)
    for name, transformer in autoencoder.transformers().items():
        if (key := f"{name}.{_ROTARY}") not in state:
            state[key] = transformer.computed_table(device)
    autoencoder.load_state_dict(state, assign=True)
    if fold:
        autoencoder.fold_weight_norm()
    return autoencoder.requires_grad_(False).eval().fuse()


def random_echo(
    source: str = "base",
    *,
    device: torch.device | str = "cpu",
    ae_device: torch.device | str | None = None,
    dtype: torch.dtype = torch.bfloat16,
    ae_dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> LoadedEcho:
    """A model with random weights of sane size, for benchmarks and tests: ``base`` or ``tiny`` shapes.

    Speaks noise, at the speed of the real model of those shapes.
    """
    config: Mapping[str, Any] = locate(TINY_MODEL).config if source == TINY_MODEL else {}
    if source not in {"base", TINY_MODEL}:
        raise LoadError(f"Random weights exist for 'base' and 'tiny', not for '{source}'.")
    dit_config, ae_config = shapes(config)
    return LoadedEcho(
        random_dit(dit_config, torch.device(device), dtype, seed),
        random_autoencoder(ae_config, torch.device(ae_device or device), ae_dtype, seed).fold_weight_norm(),
        random_pca(dit_config.latent_size, ae_config.latent_dim, torch.device(ae_device or device), seed),
        config,
    )


def random_dit(config: DiTConfig, device: torch.device, dtype: torch.dtype, seed: int = 0) -> EchoDiT:
    """A transformer with random weights."""
    with torch.device("meta"):
        dit = EchoDiT(config)
    dit.load_state_dict(_random_state(dit, device, dtype, seed), assign=True)
    return dit.requires_grad_(False).eval().fuse()


def random_autoencoder(
    config: AutoencoderConfig, device: torch.device, dtype: torch.dtype, seed: int = 0
) -> Autoencoder:
    """An autoencoder with random weights, its weight norm not folded."""
    with torch.device("meta"):
        autoencoder = Autoencoder(config)
    state = _random_state(autoencoder, device, dtype, seed)
    for name, transformer in autoencoder.transformers().items():
        state[f"{name}.{_ROTARY}"] = transformer.computed_table(device)
    autoencoder.load_state_dict(state, assign=True)
    return autoencoder.requires_grad_(False).eval().fuse()


def random_pca(latent_size: int, latent_dim: int, device: torch.device, seed: int = 0) -> Pca:
    """A PCA with orthonormal components, zero mean and scale 1."""
    generator = torch.Generator().manual_seed(seed)
    components = torch.linalg.qr(torch.randn(latent_dim, latent_size, generator=generator))[0].T
    return Pca(components.contiguous(), torch.zeros(latent_dim), 1.0).to(device)


def save_release(
    folder: Path, dit: EchoDiT, autoencoder: Autoencoder, pca: Pca, config: Mapping[str, Any] | None = None
) -> None:
    """Write a folder that ``load_echo`` reads: the release's keys and file names, and a ``config.json``.

    ``config`` adds to the shapes and file names (a name, sampler defaults). Tensors keep their dtype; a folded
    autoencoder is split into magnitude and direction again, so the decoder's file has the released keys.
    """
    files = {
        "dit": "pytorch_model.safetensors",
        "pca": "pca_state.safetensors",
        "ae": "fish-s1-dac-min/pytorch_model.safetensors",
    }
    (folder / files["ae"]).parent.mkdir(parents=True, exist_ok=True)
    _save(dit.state_dict(), folder / files["dit"])
    _save(pca.state(), folder / files["pca"])
    _save(_weight_normed(autoencoder), folder / files["ae"])
    described = {**(config or {}), "dit": asdict(dit.config), "ae": asdict(autoencoder.config), "files": files}
    (folder / "config.json").write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")


def _save(state: Mapping[str, Tensor], path: Path) -> None:
    save_file({key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}, path)


def _shapes_of(module: nn.Module) -> dict[str, torch.Size]:
    return {key: tensor.shape for key, tensor in module.state_dict().items()}


def _weight_normed(autoencoder: Autoencoder) -> dict[str, Tensor]:
    """The state dict with the released keys, whether or not the weight norm was folded."""
    state: dict[str, Tensor] = dict(autoencoder.state_dict())
    with torch.device("meta"):
        normed = set(Autoencoder(autoencoder.config).state_dict())
    for key in list(state):
        prefix = key.removesuffix("weight")
        if key not in normed and prefix + _MAGNITUDE in normed:
            weight = state.pop(key)
            state[prefix + _MAGNITUDE] = torch.norm_except_dim(weight.float(), 2, 0).to(weight.dtype)
            state[prefix + _DIRECTION] = weight
    return state


def _random_state(module: nn.Module, device: torch.device, dtype: torch.dtype, seed: int) -> dict[str, Tensor]:
    """Random values that keep activations near unit size, for every key of a module on the meta device."""
    generator = torch.Generator(device).manual_seed(seed)
    state: dict[str, Tensor] = {}
    for key, parameter in module.named_parameters():
        value = torch.empty(parameter.shape, device=device, dtype=dtype)
        if key.endswith("bias"):
            value.zero_()
        elif key.endswith(_BRANCH_ENDS):
            value.fill_(0.1)
        elif key.endswith(("norm.weight", "alpha", _MAGNITUDE)):
            value.fill_(1.0)
        else:
            value.normal_(0.0, parameter[0].numel() ** -0.5, generator=generator)
        state[key] = value
    return state
