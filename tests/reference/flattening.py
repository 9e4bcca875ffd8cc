"""Where the reference implementation ends an utterance; the product's own rule is ``echo.model.sampling.tail``."""

from __future__ import annotations

import torch
from torch import Tensor


def first_flat_window(latents: Tensor, window: int = 20, std: float = 0.05, mean: float = 0.1) -> int:
    """First latent of ``[n, latent_size]`` from which ``window`` latents are flat, or n; the reference's scan.

    Zeros count as following the last latent. A long pause ends the audio early, so use it on whole utterances
    that were meant to be cut that way.
    """
    n = latents.shape[0]
    padded = torch.cat((latents.float(), latents.new_zeros(window, latents.shape[1], dtype=torch.float32)))
    windows = padded.unfold(0, window, 1).flatten(1)
    flat = (windows.std(1) < std) & (windows.mean(1).abs() < mean)
    flags: list[bool] = flat.tolist()
    return flags.index(True) if True in flags else n
