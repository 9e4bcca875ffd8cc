"""A model folder with a trained autoencoder and a transformer that is only there to fill its place."""

from __future__ import annotations

from pathlib import Path

import torch

from echo.model.autoencoder import Autoencoder
from echo.model.files.weights import load_echo, save_release
from echo.model.network.config import DiTConfig
from echo.model.network.dit import EchoDiT
from train.tiny.pca import identity_pca


def released_and_loaded(model: Autoencoder, latent_dim: int, folder: Path) -> Autoencoder:
    """Write the release's files, and read the autoencoder from them as the server does."""
    dit = EchoDiT(
        DiTConfig(
            latent_size=80, model_size=32, num_layers=1, num_heads=2, intermediate_size=32, norm_eps=1e-5,
            text_vocab_size=256, text_model_size=32, text_num_layers=1, text_num_heads=2, text_intermediate_size=32,
            speaker_patch_size=4, speaker_model_size=32, speaker_num_layers=1, speaker_num_heads=2,
            speaker_intermediate_size=32, timestep_embed_size=32, adaln_rank=8,
        )
    )  # fmt: skip
    save_release(folder, dit, model, identity_pca(latent_dim))
    return load_echo(str(folder), dtype=torch.float32).autoencoder
