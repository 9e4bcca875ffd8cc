"""EchoDiT for training: the layers of ``echo.model.network`` over padded batches, and the checkpoint's parameter names.

The server runs rows of different lengths without padding and keeps keys between its steps; training has neither.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from echo.model.network.attention import JointAttention, Source
from echo.model.network.config import DiTConfig
from echo.model.network.layers import MLP, RMSNorm, Rotary
from echo.model.network.modulation import LowRankAdaLN, modulate, timestep_embedding
from echo.types import MAX_LATENTS
from train.tiny.dit_layers import EncoderBlock, attend, project


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
        self._rotary = Rotary(size // heads)
        self.text_embedding = nn.Embedding(config.text_vocab_size, size)
        self.blocks = nn.ModuleList(
            EncoderBlock(size, heads, config.text_intermediate_size, config.norm_eps)
            for _ in range(config.text_num_layers)
        )

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Ids and mask ``[rows, n]`` -> states ``[rows, n, text_model_size]``."""
        x: Tensor = self.text_embedding(ids)
        rotary = _repeated(self._rotary(0, ids.shape[1], ids.device), ids.shape[0])
        for block in self.blocks:
            x = block(x, rotary, mask[:, None])
        return x


class LatentEncoder(nn.Module):
    """Causal encoder of latents in patches."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        size, heads = config.speaker_model_size, config.speaker_num_heads
        self._rotary = Rotary(size // heads)
        self.in_proj = nn.Linear(config.latent_size * config.speaker_patch_size, size)
        self.blocks = nn.ModuleList(
            EncoderBlock(size, heads, config.speaker_intermediate_size, config.norm_eps)
            for _ in range(config.speaker_num_layers)
        )

    def forward(self, patches: Tensor) -> Tensor:
        """``[rows, n, patch * latent_size]`` -> ``[rows, n, speaker_model_size]``."""
        x: Tensor = self.in_proj(patches) / 6.0  # as the reference model, after the bias
        rotary = _repeated(self._rotary(0, patches.shape[1], patches.device), patches.shape[0])
        causal = torch.ones(1, patches.shape[1], patches.shape[1], dtype=torch.bool, device=patches.device).tril()
        for block in self.blocks:
            x = block(x, rotary, causal)
        return x


class Block(nn.Module):
    """One DiT block."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.eps = config.norm_eps
        self.attention = JointAttention(config, blockwise=True)
        self.mlp = MLP(config.model_size, config.intermediate_size)
        self.attention_adaln = LowRankAdaLN(config.model_size, config.adaln_rank)
        self.mlp_adaln = LowRankAdaLN(config.model_size, config.adaln_rank)

    def context(self, source: Source, state: Tensor, rotary: Tensor | None = None) -> Tensor:
        """Keys and values ``[2, rows, heads, n, d]`` of an encoder's state ``[rows, n, m]``; rotary as ``project``."""
        kv = self.attention.context(state.flatten(0, 1), source, rotary)
        return kv.reshape(*kv.shape[:2], *state.shape[:2], kv.shape[-1]).transpose(1, 2)

    def forward(
        self, h: Tensor, condition: Tensor, rotary: Tensor, context: list[Tensor], mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return ``h [rows, size, M]`` and the queries ``[rows, heads, size, d]``; mask as ``attend``."""
        shift, scale, gate = self.attention_adaln(condition)[:, :, None].unbind(1)
        q, k, v, attention_gate = project(self.attention, modulate(h, shift, scale, self.eps), rotary)
        keys = torch.cat([k, *(kv[0] for kv in context)], dim=2)
        values = torch.cat([v, *(kv[1] for kv in context)], dim=2)
        h = h + gate * self.attention.finish(attend(q, keys, values, mask).transpose(1, 2), attention_gate)
        shift, scale, gate = self.mlp_adaln(condition)[:, :, None].unbind(1)
        return h + gate * self.mlp(modulate(h, shift, scale, self.eps)), q


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
        self._rotary = Rotary(config.head_dim)
        self.text_encoder = TextEncoder(config)
        self.text_norm = RMSNorm(config.text_model_size, config.norm_eps)
        self.speaker_encoder = LatentEncoder(config)
        self.speaker_norm = RMSNorm(config.speaker_model_size, config.norm_eps)
        self.latent_encoder = LatentEncoder(config)
        self.latent_norm = RMSNorm(config.speaker_model_size, config.norm_eps)
        self.cond_module = nn.Sequential(
            nn.Linear(config.timestep_embed_size, size, bias=False),
            nn.SiLU(),
            nn.Linear(size, size, bias=False),
            nn.SiLU(),
            nn.Linear(size, 3 * size, bias=False),
        )
        self.in_proj = nn.Linear(config.latent_size, size)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.out_norm = RMSNorm(size, config.norm_eps)
        self.out_proj = nn.Linear(size, config.latent_size)

    def forward(self, batch: Inputs) -> Outputs:
        """Predict the velocity of a batch; see ``Inputs`` and ``Outputs``."""
        rows, size = batch.x.shape[:2]
        positions = self._rotary.table(MAX_LATENTS, batch.x.device)
        rotary = positions[(batch.start[:, None] + torch.arange(size, device=batch.x.device)).flatten()]
        states = {Source.TEXT: self.text_norm(self.text_encoder(batch.ids, batch.text_mask))}
        masks = [batch.text_mask.new_ones(rows, size), batch.text_mask]
        patch_rotary: dict[Source, Tensor] = {}
        if batch.prefix is not None and batch.prefix_mask is not None:
            states[Source.LATENT] = self.latent_norm(self.latent_encoder(batch.prefix))
            patches = positions[:: self.config.speaker_patch_size][: batch.prefix.shape[1]]
            patch_rotary[Source.LATENT] = _repeated(patches, rows)
            masks.append(batch.prefix_mask)
        states[Source.SPEAKER] = self.speaker_norm(self.speaker_encoder(batch.speaker))
        masks.append(batch.speaker_mask)
        mask = torch.cat(masks, dim=1)[:, None]

        condition = self.cond_module(timestep_embedding(batch.t, self.config.timestep_embed_size))
        h: Tensor = self.in_proj(batch.x).float()  # the residual stream stays exact under autocast
        hidden, alignments = h, []
        for i, block in enumerate(cast("Iterable[Block]", self.blocks)):
            context = [block.context(source, state, patch_rotary.get(source)) for source, state in states.items()]
            h, q = block(h, condition, rotary, context, mask)
            if i in self.alignment_layers:
                alignments.append((q @ context[0][0].mT).float() * self.config.head_dim**-0.5)
            if i == self.hidden_layer:
                hidden = h
        velocity: Tensor = self.out_proj(self.out_norm(h))
        return Outputs(velocity.float(), states[Source.TEXT], hidden, alignments)


def _repeated(rotary: Tensor, rows: int) -> Tensor:
    """The positions of one row, for every row of a batch."""
    return rotary.repeat(rows, *[1] * (rotary.dim() - 1))
