"""The PCA between the autoencoder's vectors and the 80 latent dimensions the transformer models; float32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from echo.errors import LoadError


@dataclass(frozen=True, slots=True)
class Pca:
    """Components [latent_size, latent_dim], mean [latent_dim] and the scale of the latents."""

    components: Tensor
    mean: Tensor
    scale: float

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Pca:
        """Read the three tensors of ``pca_state.safetensors``; LoadError when they are not what they should be."""
        expected = {"pca_components", "pca_mean", "latent_scale"}
        if missing := expected - state.keys():
            raise LoadError(f"The PCA file lacks {', '.join(sorted(missing))}; download it again.")
        components, mean, scale = (state[key].float() for key in ("pca_components", "pca_mean", "latent_scale"))
        if components.ndim != 2 or mean.shape != components.shape[1:] or scale.numel() != 1 or scale.item() == 0:
            raise LoadError(
                f"The PCA file has wrong shapes: components {list(components.shape)}, mean {list(mean.shape)},"
                f" scale {list(scale.shape)}; expected [latent, dim], [dim] and one non-zero number."
            )
        return cls(components, mean, scale.item())

    def state(self) -> dict[str, Tensor]:
        """The tensors of ``pca_state.safetensors``."""
        return {
            "pca_components": self.components,
            "pca_mean": self.mean,
            "latent_scale": torch.tensor([self.scale], dtype=torch.float32),
        }

    def to(self, device: torch.device | str) -> Pca:
        """A copy on ``device``."""
        return Pca(self.components.to(device), self.mean.to(device), self.scale)

    def encode(self, z_q: Tensor) -> Tensor:
        """Autoencoder vectors [batch, latent_dim, n] -> latents [batch, n, latent_size], float32."""
        return (z_q.float().transpose(1, 2) - self.mean) @ self.components.T * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [batch, n, latent_size] -> autoencoder vectors [batch, latent_dim, n], float32."""
        return (latents.float() / self.scale @ self.components + self.mean).transpose(1, 2)
