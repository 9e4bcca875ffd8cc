"""The encoders of the conditions: text bytes, reference latents, and latents already spoken."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echo.model.network.attention import GatedAttention
from echo.model.network.config import DiTConfig
from echo.model.network.layers import MLP, RMSNorm, Rotary, embedding


class SelfAttention(GatedAttention):
    """Gated self-attention with q/k norm and rotary positions on all heads."""

    def __init__(self, size: int, heads: int, eps: float) -> None:
        super().__init__(size, heads, eps, rotated=heads)

    def forward(self, x: Tensor, rotary: Tensor, past: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Attend ``x [n, size]``, which follows ``past``, to itself and to ``past [2, heads, p, d]``.

        ``mask`` is True where a query sees a key, ``[n or 1, p + n]``; None = everywhere. Returns the output
        ``[n, size]`` and the K/V ``[2, heads, p + n, d]``.
        """
        q, k, v, gate = self.project(x, rotary)
        kv = torch.stack((k, v)).transpose(1, 2)
        if past is not None:
            kv = torch.cat((past, kv), dim=2)
        out = F.scaled_dot_product_attention(q.transpose(0, 1)[None], kv[:1], kv[1:], attn_mask=mask)[0]
        return self.finish(out.transpose(0, 1), gate), kv


class EncoderBlock(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, size: int, heads: int, intermediate: int, eps: float) -> None:
        super().__init__()
        self.attention = SelfAttention(size, heads, eps)
        self.mlp = MLP(size, intermediate)
        self.attention_norm = RMSNorm(size, eps)
        self.mlp_norm = RMSNorm(size, eps)

    def forward(self, x: Tensor, rotary: Tensor, past: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """As SelfAttention: output ``[n, size]`` and K/V including the past's."""
        attended, kv = self.attention(self.attention_norm(x), rotary, past, mask)
        x = x + attended
        return x + self.mlp(self.mlp_norm(x)), kv


class TextEncoder(nn.Module):
    """Bidirectional encoder of byte ids."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        size, heads = config.text_model_size, config.text_num_heads
        self.rotary = Rotary(size // heads)
        self.text_embedding = embedding(config.text_vocab_size, size)
        self.blocks = nn.ModuleList(
            EncoderBlock(size, heads, config.text_intermediate_size, config.norm_eps)
            for _ in range(config.text_num_layers)
        )

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Ids ``[n]`` -> states ``[n, text_model_size]``; ``mask [1, n]`` is False for padding, None without any."""
        x: Tensor = self.text_embedding(ids)
        rotary = self.rotary(0, x.shape[0], x.device)
        for block in self.blocks:
            x, _ = block(x, rotary, None, mask)
        return x


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """Output of a causal encoder.

    states  [patches, speaker_model_size], of the new patches
    kv      [layers, 2, heads, past + patches, d], the encoder's own keys and values
    """

    states: Tensor
    kv: Tensor


class LatentEncoder(nn.Module):
    """Causal encoder of latents in patches: the reference voice (speaker) or what was spoken so far (latent)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        size, heads = config.speaker_model_size, config.speaker_num_heads
        self.rotary = Rotary(size // heads)
        self.in_proj = nn.Linear(config.latent_size * config.speaker_patch_size, size)
        self.blocks = nn.ModuleList(
            EncoderBlock(size, heads, config.speaker_intermediate_size, config.norm_eps)
            for _ in range(config.speaker_num_layers)
        )

    def forward(self, patches: Tensor, past: Tensor | None = None) -> Encoded:
        """Encode ``patches [n, patch * latent]`` behind those whose encoder K/V is ``past`` (None = none)."""
        count, start = patches.shape[0], 0 if past is None else past.shape[3]
        return self.encode(
            patches, past, self.rotary(start, count, patches.device), causal_mask(count, start, patches.device)
        )

    def encode(self, patches: Tensor, past: Tensor | None, rotary: Tensor, mask: Tensor | None) -> Encoded:
        """As ``forward``, at the positions of ``rotary`` and with the ``mask [n, past + n]`` of SelfAttention."""
        # The model was trained with its input divided by 6, after the bias.
        x = self.in_proj(patches) / 6.0
        kvs = []
        for i, block in enumerate(self.blocks):
            x, kv = block(x, rotary, None if past is None else past[i], mask)
            kvs.append(kv)
        return Encoded(states=x, kv=torch.stack(kvs))


def causal_mask(count: int, past: int, device: torch.device) -> Tensor | None:
    """Which keys ``count`` queries behind ``past`` others see, ``[count, past + count]``; None = all of them."""
    if count == 1:
        return None
    # SDPA's own causal flag aligns the first query with the first key, wrong behind a past.
    return torch.ones(count, past + count, dtype=torch.bool, device=device).tril(past)
