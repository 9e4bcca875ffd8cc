"""The DiT's joint attention: its projections, and the keys that it makes of the conditions."""

from __future__ import annotations

from enum import StrEnum

import torch
from torch import Tensor, nn

from echo.model.config import DiTConfig
from echo.model.layers import split_heads
from echo.model.projections import GatedAttention, rotate_first


class Source(StrEnum):
    """What context keys are made from; the value is the suffix of the projection's name."""

    TEXT = "text"
    SPEAKER = "speaker"
    LATENT = "latent"


class JointAttention(GatedAttention):
    """Gated attention of every row over its own keys and its context keys; without ``blockwise``, no latent keys.

    Half the heads carry the position, the others are free of it. Who attends to what is not known here: see keys.py.
    """

    def __init__(self, config: DiTConfig, *, blockwise: bool) -> None:
        size, text, speaker = config.model_size, config.text_model_size, config.speaker_model_size
        super().__init__(size, config.num_heads, config.norm_eps, rotated=(config.num_heads + 1) // 2)
        self.wk_text = nn.Linear(text, size, bias=False)
        self.wv_text = nn.Linear(text, size, bias=False)
        self.wk_speaker = nn.Linear(speaker, size, bias=False)
        self.wv_speaker = nn.Linear(speaker, size, bias=False)
        if blockwise:
            self.wk_latent = nn.Linear(speaker, size, bias=False)
            self.wv_latent = nn.Linear(speaker, size, bias=False)

    def context(self, state: Tensor, source: Source, turns: Tensor | None = None) -> Tensor:
        """K/V ``[2, heads, n, d]`` of an encoder state ``[n, m]``; ``turns`` where the keys have positions."""
        k = self.k_norm(split_heads(self.get_submodule(f"wk_{source}")(state), self.heads))
        v = split_heads(self.get_submodule(f"wv_{source}")(state), self.heads)
        if turns is not None:
            k = rotate_first(k, turns, self.rotated)
        return torch.stack((k, v)).transpose(1, 2)
