"""Writes trained parts as a model folder, in the layout of the one in the package (``echo/assets/tiny``)."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from echo.model.alignment import BOS_AND_TAG, SENTENCES, Found, search
from echo.model.autoencoder import Autoencoder
from echo.model.autoencoder.pca import Pca
from echo.model.autoencoder.speaker import run_to_end
from echo.model.files.heads import HEADS_FILE, fingerprint, write_heads
from echo.model.files.hub import locate
from echo.model.files.weights import LoadedEcho, load_echo, save_release
from echo.model.network.config import DiTConfig
from echo.model.network.dit import EchoDiT
from echo.text.tokenize import encode_sentence
from train.tiny import state
from train.tiny.latents import Analysis
from train.tiny.start import ANALYSIS

#: File names in the package.
FILES = {"dit": "echo_tiny.safetensors", "ae": "s1dac_tiny.safetensors", "pca": "pca_state.safetensors"}


def write_model(
    folder: Path,
    *,
    dit: Mapping[str, Tensor],
    dit_config: DiTConfig,
    autoencoder: Autoencoder,
    pca: Pca,
    analysis: Analysis,
    described: Mapping[str, Any],
    dit_dtype: torch.dtype = torch.bfloat16,
    ae_dtype: torch.dtype = torch.float16,
) -> LoadedEcho:
    """Write a folder that the server loads, and return what its loader made of it.

    dit        state dict of ``TrainableDiT``
    described  what config.json says besides sizes and file names: name, the ``engine`` table, sampler defaults

    What is in the folder is replaced only once the new files have been loaded.
    """
    fresh = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    served = EchoDiT(dit_config)
    served.load_state_dict(dict(dit))
    save_release(fresh, served.to(dit_dtype), _rounded(autoencoder, ae_dtype), pca, described)
    _rename(fresh)
    analysis.save(fresh / ANALYSIS)
    loaded = load_echo(str(fresh), dtype=torch.float32)
    write_heads_of(loaded)
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
    return loaded


def write_heads_of(loaded: LoadedEcho) -> Found:
    """Write which attention heads of a model follow the text beside its weights, and return them."""
    assert loaded.weights is not None
    tokens = [encode_sentence(sentence) for sentence in SENTENCES]
    found = run_to_end(search(loaded.dit, tokens, BOS_AND_TAG))
    write_heads(loaded.weights.parent / HEADS_FILE, fingerprint(loaded.weights), found.heads, found.shares)
    return found


def dit_weights(checkpoint: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the DiT's state dict out of the tensors of a training checkpoint, without heads and optimisers."""
    model = state.under("model", checkpoint)
    return {key.removeprefix("dit."): tensor for key, tensor in model.items() if key.startswith("dit.")}


def model_folder(source: str) -> Path:
    """Return where the files of a model lie that is named as the server names it: ``tiny``, or a folder."""
    return locate(source).dit.parent


def size(folder: Path) -> int:
    """Bytes of all files of a model folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _rounded(autoencoder: Autoencoder, dtype: torch.dtype) -> Autoencoder:
    """Return a copy with weights in ``dtype``; the rotary tables keep theirs."""
    rounded = copy.deepcopy(autoencoder)
    for parameter in rounded.parameters():
        parameter.data = parameter.data.to(dtype)
    return rounded


def _rename(folder: Path) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for part, name in config["files"].items():
        (folder / name).rename(folder / FILES[part])
        if (folder / name).parent != folder:
            (folder / name).parent.rmdir()
    config["files"] = FILES
    path.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
