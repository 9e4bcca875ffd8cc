"""The PCA file of a model whose autoencoder carries the latents as they are, followed by zeros."""

from __future__ import annotations

import torch

from echo.model.autoencoder.pca import Pca
from train.tiny.latents import LATENT_SIZE


def identity_pca(latent_dim: int) -> Pca:
    """Components ``[I 0]``, mean 0, scale 1 for vectors of ``latent_dim``; all-zero latents stay silence."""
    return Pca(torch.eye(LATENT_SIZE, latent_dim), torch.zeros(latent_dim), 1.0)
