"""The DiT's joint attention: a row's own latents, the latents before them, the text and the speaker."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echo.model.config import DiTConfig
from echo.model.layers import RMSNorm, rotate, split_heads


class Source(StrEnum):
    """What context keys are made from; the value is the suffix of the projection's name."""

    TEXT = "text"
    SPEAKER = "speaker"
    LATENT = "latent"


def rotate_half_the_heads(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate the first ceil(heads / 2) heads of ``[..., n, heads, d]``; the others stay free of position."""
    half = (x.shape[-2] + 1) // 2
    return torch.cat((rotate(x[..., :half, :], angles), x[..., half:, :]), dim=-2)


class JointAttention(nn.Module):
    """Gated attention of every row over its own keys and its context keys; without ``blockwise``, no latent keys."""

    def __init__(self, config: DiTConfig, *, blockwise: bool) -> None:
        super().__init__()
        size, text, speaker = config.model_size, config.text_model_size, config.speaker_model_size
        self.heads = config.num_heads
        self.wq = nn.Linear(size, size, bias=False)
        self.wk = nn.Linear(size, size, bias=False)
        self.wv = nn.Linear(size, size, bias=False)
        self.wo = nn.Linear(size, size, bias=False)
        self.gate = nn.Linear(size, size, bias=False)
        self.wk_text = nn.Linear(text, size, bias=False)
        self.wv_text = nn.Linear(text, size, bias=False)
        self.wk_speaker = nn.Linear(speaker, size, bias=False)
        self.wv_speaker = nn.Linear(speaker, size, bias=False)
        if blockwise:
            self.wk_latent = nn.Linear(speaker, size, bias=False)
            self.wv_latent = nn.Linear(speaker, size, bias=False)
        self.q_norm = RMSNorm((config.num_heads, config.head_dim), config.norm_eps)
        self.k_norm = RMSNorm((config.num_heads, config.head_dim), config.norm_eps)

    def context(self, state: Tensor, source: Source, angles: Tensor | None = None) -> Tensor:
        """K/V ``[2, heads, n, d]`` of an encoder state ``[n, m]``; ``angles`` where the keys have positions."""
        k = self.k_norm(split_heads(self.get_submodule(f"wk_{source}")(state), self.heads))
        v = split_heads(self.get_submodule(f"wv_{source}")(state), self.heads)
        if angles is not None:
            k = rotate_half_the_heads(k, angles)
        return torch.stack((k, v)).transpose(1, 2)

    def project(self, x: Tensor, angles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values ``[rows, heads, size, d]`` of ``x [rows, size, M]``.

        angles  [rows or 1, size, 2, d/2]   of the rows' positions
        """
        q = rotate_half_the_heads(self.q_norm(split_heads(self.wq(x), self.heads)), angles).transpose(1, 2)
        k = rotate_half_the_heads(self.k_norm(split_heads(self.wk(x), self.heads)), angles).transpose(1, 2)
        return q, k, split_heads(self.wv(x), self.heads).transpose(1, 2)

    def gated(self, attended: Tensor, x: Tensor) -> Tensor:
        """What ``attend`` returned, gated by ``x`` and projected: ``[rows, size, M]``."""
        out: Tensor = self.wo(attended.flatten(2) * torch.sigmoid(self.gate(x)))
        return out


def attend(q: Tensor, k: Tensor, v: Tensor, keys: Sequence[Tensor], own: Sequence[Tensor]) -> Tensor:
    """One attention of every row.

    q, k, v  [rows, heads, size, d]      as ``project`` gives them
    keys     per row [2, heads, size + n, d], n differing between rows
    own      per row [2, heads, size, d], the part of ``keys`` to be filled with the row's own keys here
    returns  [rows, size, heads, d]

    Without masks every row needs its own attention call. Not to be compiled: ``own`` and ``keys`` overlap.
    """
    rows, heads, size, d = q.shape
    out = q.new_empty(rows, size, heads, d)
    for row in range(rows):
        own[row][0].copy_(k[row])
        own[row][1].copy_(v[row])
        seen = keys[row]
        attended = F.scaled_dot_product_attention(q[row : row + 1], seen[:1], seen[1:])
        out[row].copy_(attended[0].transpose(0, 1))
    return out
