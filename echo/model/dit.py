"""EchoDiT: predicts the flow velocity of a block of latents from text, voice and the latents before it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from echo.model.attention import JointAttention, Source, attend
from echo.model.config import DiTConfig
from echo.model.encoders import Encoded, LatentEncoder, TextEncoder
from echo.model.kv import KV, RowContext, pack_context
from echo.model.layers import MLP, RMSNorm, Rotary
from echo.model.modulation import LowRankAdaLN, modulate, timestep_embedding


class Block(nn.Module):
    """One DiT block; its norms have no weights of their own, only the modulation."""

    def __init__(self, config: DiTConfig, *, blockwise: bool) -> None:
        super().__init__()
        self.eps = config.norm_eps
        self.attention = JointAttention(config, blockwise=blockwise)
        self.mlp = MLP(config.model_size, config.intermediate_size)
        self.attention_adaln = LowRankAdaLN(config.model_size, config.adaln_rank)
        self.mlp_adaln = LowRankAdaLN(config.model_size, config.adaln_rank)

    def modulation(self, condition: Tensor) -> Tensor:
        """Condition ``[n, 3M]`` -> ``[n, 6, M]``."""
        return torch.cat((self.attention_adaln(condition), self.mlp_adaln(condition)), dim=1)

    def forward(
        self, h: Tensor, modulation: Tensor, angles: Tensor, keys: Sequence[Tensor], own: Sequence[Tensor]
    ) -> Tensor:
        """``h [rows, size, M]`` -> the same; modulation ``[rows or 1, 6, M]``, the rest as the attention's."""
        x, q, k, v = self.before_attention(h, modulation, angles)
        return self.after_attention(h, x, attend(q, k, v, keys, own), modulation)

    def before_attention(self, h: Tensor, modulation: Tensor, angles: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The attention's input and its queries, keys and values."""
        shift, scale, *_ = modulation.unsqueeze(2).unbind(1)
        x = modulate(h, shift, scale, self.eps)
        return x, *self.attention.project(x, angles)

    def after_attention(self, h: Tensor, x: Tensor, attended: Tensor, modulation: Tensor) -> Tensor:
        """Everything behind the attention: ``[rows, size, M]``."""
        _, _, gate, mlp_shift, mlp_scale, mlp_gate = modulation.unsqueeze(2).unbind(1)
        h = h + gate * self.attention.gated(attended, x)
        out: Tensor = h + mlp_gate * self.mlp(modulate(h, mlp_shift, mlp_scale, self.eps))
        return out


class EchoDiT(nn.Module):
    """The diffusion transformer with its encoders, for inference; any device and dtype, the meta device included.

    ``blockwise`` False leaves out the latent encoder and its projections (a checkpoint without them can only
    speak an utterance in one block).
    """

    def __init__(self, config: DiTConfig, *, blockwise: bool = True) -> None:
        super().__init__()
        self.config = config
        self.blockwise = blockwise
        size = config.model_size
        self.rotary = Rotary(config.head_dim)
        self.text_encoder = TextEncoder(config)
        self.text_norm = RMSNorm(config.text_model_size, config.norm_eps)
        self.speaker_encoder = LatentEncoder(config)
        self.speaker_norm = RMSNorm(config.speaker_model_size, config.norm_eps)
        if blockwise:
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
        self.blocks = nn.ModuleList(Block(config, blockwise=blockwise) for _ in range(config.num_layers))
        self.out_norm = RMSNorm(size, config.norm_eps)
        self.out_proj = nn.Linear(size, config.latent_size)
        self.requires_grad_(False)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype the model computes in; the sampler's own state stays float32."""
        return self.in_proj.weight.dtype

    @property
    def device(self) -> torch.device:
        """The device the weights are on."""
        return self.in_proj.weight.device

    @torch.inference_mode()
    def encode_text(self, ids: Tensor) -> KV:
        """K/V of a text: ids ``[n]`` as the tokenizer gives them (BOS first, no padding), n >= 1."""
        return self._context(self.text_norm(self.text_encoder(ids.to(self.device))), Source.TEXT)

    @torch.inference_mode()
    def encode_speaker(self, latents: Tensor, valid: int | None = None) -> KV:
        """K/V of a reference voice.

        latents  [n, latent_size], n a multiple of the patch size (ValueError otherwise)
        valid    how many of them are real (None = all). A patch counts when its first latent does.
        """
        patch = self.config.speaker_patch_size
        if latents.shape[0] % patch:
            raise ValueError(f"speaker latents must be a multiple of {patch}, not {latents.shape[0]}")
        valid = latents.shape[0] if valid is None else valid
        seen = -(-valid // patch)
        if seen == 0:
            return self.empty_kv()
        # The encoder is causal: leaving out the unseen patches behind does not change the seen ones.
        patches = latents[: seen * patch].to(self.device, self.dtype).reshape(seen, -1)
        return self._context(self.speaker_norm(self.speaker_encoder(patches).states), Source.SPEAKER)

    def encode_prefix(self, patches: Tensor, past: Tensor | None) -> tuple[KV, Encoded]:
        """K/V of ``patches [n, patch * latent_size]`` of spoken latents that follow those encoded as ``past``.

        Also returns the encoder's own output, whose K/V is the next call's ``past`` (see prefix.py).
        """
        encoded: Encoded = self.latent_encoder(patches.to(self.device, self.dtype), past)
        patch = self.config.speaker_patch_size
        first = 0 if past is None else past.shape[3]
        angles = self.rotary(first * patch, patches.shape[0], self.device, stride=patch)
        return self._context(self.latent_norm(encoded.states), Source.LATENT, angles), encoded

    def modulation(self, times: Sequence[float]) -> Tensor:
        """What flow times do to the blocks: ``[len(times), layers, 6, M]`` in the model's dtype."""
        t = torch.tensor(times, dtype=torch.float32).to(self.device, self.dtype)
        condition = self.cond_module(timestep_embedding(t, self.config.timestep_embed_size))
        return torch.stack([block.modulation(condition) for block in self._blocks()], dim=1)

    def empty_kv(self) -> KV:
        """A K/V without keys."""
        config = self.config
        return torch.empty(
            config.num_layers, 2, config.num_heads, 0, config.head_dim, dtype=self.dtype, device=self.device
        )

    def pack(self, rows: Sequence[Sequence[KV]], size: int) -> list[RowContext]:
        """Prepare the context keys of the rows of a block of ``size`` latents; see ``kv.pack_context``."""
        return pack_context(rows, size, self.empty_kv())

    def velocity(self, x: Tensor, modulation: Tensor, contexts: Sequence[RowContext], starts: Sequence[int]) -> Tensor:
        """The flow velocity (noise minus clean) of every row at its own flow time.

        x           [rows, size, latent_size]
        modulation  [rows, layers, 6, M], or one row for all: rows of ``modulation(times)``
        contexts    per row, from ``pack``; their room for own keys is written to
        starts      per row, the position of its first latent
        returns     [rows, size, latent_size] float32

        Queues work on the device and reads nothing back.
        """
        angles = self._angles(starts, x.shape[1])
        keys = [row.keys.unbind(0) for row in contexts]
        own = [row.own.unbind(0) for row in contexts]
        h = self.in_proj(x.to(self.dtype))
        for i, block in enumerate(self._blocks()):
            h = block(h, modulation[:, i], angles, [row[i] for row in keys], [row[i] for row in own])
        velocity: Tensor = self.out_proj(self.out_norm(h))
        return velocity.float()

    def _angles(self, starts: Sequence[int], size: int) -> Tensor:
        if len(set(starts)) == 1:
            return self.rotary(starts[0], size, self.device)[None]
        return torch.stack([self.rotary(start, size, self.device) for start in starts])

    def _context(self, state: Tensor, source: Source, angles: Tensor | None = None) -> KV:
        return torch.stack([block.attention.context(state, source, angles) for block in self._blocks()])

    def _blocks(self) -> Iterable[Block]:
        return cast("Iterable[Block]", self.blocks)
