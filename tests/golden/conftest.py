"""Loads the golden vectors: tensors and case parameters recorded from the public reference implementation."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from echo.model.autoencoder import Autoencoder, AutoencoderConfig
from echo.model.autoencoder.pca import Pca
from echo.model.files.weights import load_autoencoder, load_pca
from echo.model.network.config import DiTConfig
from echo.model.network.dit import EchoDiT

FOLDER = Path(__file__).parent / "vectors"

Vectors = Callable[[str], dict[str, Tensor]]
CaseParams = Callable[[str], Any]


@pytest.fixture(scope="session")
def vectors() -> Vectors:
    """``vectors("dit_stages")`` -> all tensors of that file by key (read once; do not write into them)."""
    return cache(lambda name: load_file(FOLDER / f"{name}.safetensors"))


@pytest.fixture(scope="session")
def case_params() -> CaseParams:
    """``case_params("sampler_oneshot")`` -> that JSON file."""
    return cache(lambda name: json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")))


@pytest.fixture(scope="session")
def golden_config(case_params: CaseParams) -> dict[str, Any]:
    """Constructor arguments of the golden models: keys ``dit``, ``ae``, ``pca``."""
    config: dict[str, Any] = case_params("config")
    return config


@pytest.fixture(scope="session")
def dit(vectors: Vectors, golden_config: dict[str, Any]) -> EchoDiT:
    """The golden EchoDiT in float32 (its weights are stored in bfloat16, exactly)."""
    with torch.device("meta"):
        model = EchoDiT(DiTConfig.from_dict(golden_config["dit"]))
    weights = {name: tensor.float() for name, tensor in vectors("dit_weights").items()}
    model.load_state_dict(weights, strict=True, assign=True)
    return model


@pytest.fixture(scope="session")
def autoencoder(golden_config: dict[str, Any]) -> Autoencoder:
    """The golden S1-DAC in float32, its weight norm folded as for inference."""
    config = AutoencoderConfig.from_dict(golden_config["ae"])
    return load_autoencoder(FOLDER / "ae_weights.safetensors", config, torch.device("cpu"), torch.float32)


@pytest.fixture(scope="session")
def pca() -> Pca:
    """The golden PCA."""
    return load_pca(FOLDER / "pca_state.safetensors")
