"""Speaks a text with a loaded model, without the server: for pictures, and to learn a model's own latents."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from echo.model.files.weights import LoadedEcho
from echo.model.network.kv import KV
from echo.model.sampling.guidance import Conditions
from echo.model.sampling.sampler import draw_noise, make_conditions, sample_oneshot
from echo.text.tokenize import encode
from echo.types import BlockSpec, SamplerParams

#: Guided by the text alone, and no more than what is needed to hear what a model has learnt.
PARAMS = SamplerParams(cfg_scale_text=1.5, cfg_scale_speaker=0.0, cfg_min_t=0.0, cfg_max_t=1.0)
_STEPS, _TRUNCATION = 8, 0.85


@torch.inference_mode()
def latents_of(model: LoadedEcho, text: str, *, size: int, seed: int = 0, speaker: KV | None = None) -> Tensor:
    """Latents ``[size, 80]`` of a text in one block."""
    ids = torch.tensor(encode(text), device=model.dit.device)
    conditions: Conditions = make_conditions(model.dit, ids, speaker)
    spec = BlockSpec(size=size, steps=_STEPS, truncation=_TRUNCATION)
    return sample_oneshot(model.dit, conditions, spec, PARAMS, draw_noise(seed, 0, 0, 0, size))


@torch.inference_mode()
def audio_of(model: LoadedEcho, latents: Tensor) -> NDArray[np.float32]:
    """Samples at 44.1 kHz of latents ``[n, 80]``."""
    vectors = model.pca.decode(latents[None]).to(model.autoencoder.device, model.autoencoder.dtype)
    samples: NDArray[np.float32] = model.autoencoder.decode_zq(vectors)[0, 0].float().cpu().numpy()
    return samples
