"""EchoDiT for training: ``echo.model.network.dit`` over padded batches, with the checkpoint's parameter names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echo.model.network.config import DiTConfig
from echo.model.network.modulation import timestep_embedding
from train.tiny.dit_layers import EncoderBlock, FeedForward, GatedAttention, Norm, attend, half, rotary, rotated


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """A padded batch. Masks are true where a key is seen.

    x             [rows, size, latent_size]   noisy latents
    t             [rows]                      flow times
    start         [rows]                      position of a row's first latent
    ids           [rows, bytes]               text as the tokenizer gives it, BOS first
    text_mask     [rows, bytes]
    speaker       [rows, patches, patch * latent_size]   reference latents
    speaker_mask  [rows, patches]
    prefix        [rows, patches, patch * latent_size]   latents before ``start``; None when every row starts at 0
    prefix_mask   [rows, patches]
    """

    x: Tensor
    t: Tensor
    start: Tensor
    ids: Tensor
    text_mask: Tensor
    speaker: Tensor
    speaker_mask: Tensor
    prefix: Tensor | None = None
    prefix_mask: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """What a forward gives.

    velocity    [rows, size, latent_size] f32, noise minus clean
    text_state  [rows, bytes, text_model_size], what the text's keys and values are made from
    hidden      [rows, size, model_size], output of block ``hidden_layer``
    alignments  per asked layer ``[rows, heads, size, bytes]`` f32, scores of text keys before the softmax
    """

    velocity: Tensor
    text_state: Tensor
    hidden: Tensor
    alignments: list[Tensor]


class TextEncoder(nn.Module):
    """Bidirectional encoder of byte ids."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        size, heads = config.text_model_size, config.text_num_heads
        self._head_dim = size // heads
        self.text_embedding = nn.Embedding(config.text_vocab_size, size)
        self.blocks = nn.ModuleList(
            EncoderBlock(size, heads, config.text_intermediate_size, config.norm_eps)
            for _ in range(config.text_num_layers)
        )

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Ids and mask ``[rows, n]`` -> states ``[rows, n, text_model_size]``."""
        x: Tensor = self.text_embedding(ids)
        angles = rotary(torch.arange(ids.shape[1], device=ids.device), self._head_dim)
        for block in self.blocks:
            x = block(x, angles, mask[:, None])
        return x


class LatentEncoder(nn.Module):
    """Causal encoder of latents in patches."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        size, heads = config.speaker_model_size, config.speaker_num_heads
        self._head_dim = size // heads
        self.in_proj = nn.Linear(config.latent_size * config.speaker_patch_size, size)
        self.blocks = nn.ModuleList(
            EncoderBlock(size, heads, config.speaker_intermediate_size, config.norm_eps)
            for _ in range(config.speaker_num_layers)
        )

    def forward(self, patches: Tensor) -> Tensor:
        """``[rows, n, patch * latent_size]`` -> ``[rows, n, speaker_model_size]``."""
        x: Tensor = self.in_proj(patches) / 6.0  # as the reference model, after the bias
        angles = rotary(torch.arange(patches.shape[1], device=patches.device), self._head_dim)
        causal = torch.ones(1, patches.shape[1], patches.shape[1], dtype=torch.bool, device=patches.device).tril()
        for block in self.blocks:
            x = block(x, angles, causal)
        return x


class JointAttention(GatedAttention):
    """Attention over own latents, spoken latents, text and speaker."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__(config.model_size, config.num_heads, config.norm_eps)
        for source, width in (
            ("text", config.text_model_size),
            ("speaker", config.speaker_model_size),
            ("latent", config.speaker_model_size),
        ):
            for part in ("wk", "wv"):
                self.add_module(f"{part}_{source}", nn.Linear(width, config.model_size, bias=False))

    def context(self, source: str, state: Tensor, angles: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Keys and values ``[rows, heads, n, d]`` of an encoder's state ``[rows, n, m]``."""
        k = self.k_norm(self.project(f"wk_{source}", state))
        if angles is not None:
            k = rotated(k, angles, heads=half(self.heads))
        return k.transpose(1, 2), self.project(f"wv_{source}", state).transpose(1, 2)


class AdaLN(nn.Module):
    """Adaptive norm of low rank."""

    def __init__(self, size: int, rank: int) -> None:
        super().__init__()
        for part in ("shift", "scale", "gate"):
            self.add_module(f"{part}_down", nn.Linear(size, rank, bias=False))
            self.add_module(f"{part}_up", nn.Linear(rank, size))

    def forward(self, condition: Tensor) -> Tensor:
        """Condition ``[rows, 3 M]`` -> ``[rows, 3, M]``: shift, 1 + scale, tanh(gate)."""
        shift, scale, gate = (
            self.get_submodule(f"{part}_up")(self.get_submodule(f"{part}_down")(F.silu(value))) + value
            for part, value in zip(("shift", "scale", "gate"), condition.chunk(3, dim=-1), strict=True)
        )
        return torch.stack((shift, 1 + scale, torch.tanh(gate)), dim=1)


class Block(nn.Module):
    """One DiT block."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.eps = config.norm_eps
        self.attention = JointAttention(config)
        self.mlp = FeedForward(config.model_size, config.intermediate_size)
        self.attention_adaln = AdaLN(config.model_size, config.adaln_rank)
        self.mlp_adaln = AdaLN(config.model_size, config.adaln_rank)

    def forward(
        self, h: Tensor, condition: Tensor, angles: Tensor, context: list[tuple[Tensor, Tensor]], mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return ``h [rows, size, M]`` and the queries ``[rows, heads, size, d]``; mask as ``attend``."""
        attention = self.attention
        shift, scale, gate = self.attention_adaln(condition)[:, :, None].unbind(1)
        y = self._modulate(h, shift, scale)
        q = rotated(attention.q_norm(attention.project("wq", y)), angles, heads=half(attention.heads)).transpose(1, 2)
        k = rotated(attention.k_norm(attention.project("wk", y)), angles, heads=half(attention.heads)).transpose(1, 2)
        v = attention.project("wv", y).transpose(1, 2)
        keys = torch.cat([k, *(pair[0] for pair in context)], dim=2)
        values = torch.cat([v, *(pair[1] for pair in context)], dim=2)
        h = h + gate * attention.finish(attend(q, keys, values, mask), y)
        shift, scale, gate = self.mlp_adaln(condition)[:, :, None].unbind(1)
        return h + gate * self.mlp(self._modulate(h, shift, scale)), q

    def _modulate(self, h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return F.rms_norm(h.float(), h.shape[-1:], eps=self.eps) * scale + shift


class TrainableDiT(nn.Module):
    """EchoDiT with gradients: its state dict is the checkpoint's.

    alignment_layers  blocks whose text scores a forward returns
    hidden_layer      block whose output a forward returns
    """

    def __init__(self, config: DiTConfig, *, alignment_layers: tuple[int, ...] = (), hidden_layer: int = 0) -> None:
        super().__init__()
        self.config = config
        self.alignment_layers = alignment_layers
        self.hidden_layer = hidden_layer
        size = config.model_size
        self.text_encoder = TextEncoder(config)
        self.text_norm = Norm(config.text_model_size, config.norm_eps)
        self.speaker_encoder = LatentEncoder(config)
        self.speaker_norm = Norm(config.speaker_model_size, config.norm_eps)
        self.latent_encoder = LatentEncoder(config)
        self.latent_norm = Norm(config.speaker_model_size, config.norm_eps)
        self.cond_module = nn.Sequential(
            nn.Linear(config.timestep_embed_size, size, bias=False),
            nn.SiLU(),
            nn.Linear(size, size, bias=False),
            nn.SiLU(),
            nn.Linear(size, 3 * size, bias=False),
        )
        self.in_proj = nn.Linear(config.latent_size, size)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.out_norm = Norm(size, config.norm_eps)
        self.out_proj = nn.Linear(size, config.latent_size)

    def forward(self, batch: Inputs) -> Outputs:
        """Predict the velocity of a batch; see ``Inputs`` and ``Outputs``."""
        rows, size = batch.x.shape[:2]
        angles = rotary(batch.start[:, None] + torch.arange(size, device=batch.x.device), self.config.head_dim)
        states = {"text": self.text_norm(self.text_encoder(batch.ids, batch.text_mask))}
        masks = [batch.text_mask.new_ones(rows, size), batch.text_mask]
        patch_angles: dict[str, Tensor] = {}
        if batch.prefix is not None and batch.prefix_mask is not None:
            states["latent"] = self.latent_norm(self.latent_encoder(batch.prefix))
            patch = self.config.speaker_patch_size
            places = torch.arange(batch.prefix.shape[1], device=batch.x.device) * patch
            patch_angles["latent"] = rotary(places, self.config.head_dim)
            masks.append(batch.prefix_mask)
        states["speaker"] = self.speaker_norm(self.speaker_encoder(batch.speaker))
        masks.append(batch.speaker_mask)
        mask = torch.cat(masks, dim=1)[:, None]

        condition = self.cond_module(timestep_embedding(batch.t, self.config.timestep_embed_size))
        h: Tensor = self.in_proj(batch.x).float()  # the residual stream stays exact under autocast
        hidden, alignments = h, []
        for i, block in enumerate(cast("Iterable[Block]", self.blocks)):
            context = [
                block.attention.context(source, state, patch_angles.get(source)) for source, state in states.items()
            ]
            h, q = block(h, condition, angles, context, mask)
            if i in self.alignment_layers:
                alignments.append((q @ context[0][0].mT).float() * self.config.head_dim**-0.5)
            if i == self.hidden_layer:
                hidden = h
        velocity: Tensor = self.out_proj(self.out_norm(h))
        return Outputs(velocity.float(), states["text"], hidden, alignments)
