"""A whole Echo model of a few thousand parameters, in the proportions of the release."""

from __future__ import annotations

from dataclasses import replace

import torch

from echo.model.autoencoder import RELEASED, Autoencoder, AutoencoderConfig
from echo.model.autoencoder.config import TransformerConfig
from echo.model.autoencoder.pca import Pca
from echo.model.files.weights import random_autoencoder, random_dit, random_pca
from echo.model.network.config import DiTConfig
from echo.model.network.dit import EchoDiT

CPU = torch.device("cpu")
DIM = 128


def _narrow(config: TransformerConfig, dim: int = DIM, n_layer: int = 2) -> TransformerConfig:
    return replace(config, input_dim=dim, dim=dim, n_layer=n_layer, n_head=dim // 64, intermediate_size=3 * dim)


def narrow_release(n_layer: int = 2) -> AutoencoderConfig:
    """The released rates, kernels, windows and tables with few channels and layers."""
    encoder_transformer = RELEASED.encoder_transformers[3]
    assert encoder_transformer is not None
    module = _narrow(RELEASED.quantizer.post_module, n_layer=n_layer)
    return replace(
        RELEASED,
        encoder_dim=8,
        encoder_transformers=(None, None, None, _narrow(encoder_transformer)),
        latent_dim=DIM,
        decoder_dim=32,
        quantizer=replace(
            RELEASED.quantizer,
            codebook_size=16,
            n_codebooks=2,
            semantic_codebook_size=32,
            pre_module=module,
            post_module=module,
        ),
    )


DIT = DiTConfig(
    latent_size=80,
    model_size=32,
    num_layers=2,
    num_heads=2,
    intermediate_size=48,
    norm_eps=1e-5,
    text_vocab_size=256,
    text_model_size=32,
    text_num_layers=1,
    text_num_heads=2,
    text_intermediate_size=48,
    speaker_patch_size=4,
    speaker_model_size=32,
    speaker_num_layers=1,
    speaker_num_heads=2,
    speaker_intermediate_size=48,
    timestep_embed_size=16,
    adaln_rank=4,
)


def small_dit(dtype: torch.dtype = torch.bfloat16) -> EchoDiT:
    return random_dit(DIT, CPU, dtype)


def small_autoencoder(*, fold: bool = True) -> Autoencoder:
    autoencoder = random_autoencoder(narrow_release(), CPU, torch.float32)
    return autoencoder.fold_weight_norm() if fold else autoencoder


def small_pca(latent_dim: int = 128) -> Pca:
    """80 components need at least 80 dimensions."""
    return random_pca(80, latent_dim, CPU)
