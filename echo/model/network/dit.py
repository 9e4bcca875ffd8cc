"""EchoDiT: predicts the flow velocity of a block of latents from text, voice and the latents before it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Sequence
from functools import partial
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from echo.model.network.arena import Arena
from echo.model.network.attention import Attention, JointAttention, RowByRow, Source
from echo.model.network.config import DiTConfig
from echo.model.network.encoders import Encoded, LatentEncoder, TextEncoder
from echo.model.network.kv import KV, RowContext, copy_into, pack_context
from echo.model.network.layers import MLP, RMSNorm, Rotary, fuse_all
from echo.model.network.modulation import LowRankAdaLN, modulate, timestep_embedding
from echo.model.network.transfer import to_device
from echo.model.network.watch import Heads, Sink, Watch, hand_out

log = logging.getLogger(__name__)


class Velocity(Protocol):
    """``EchoDiT.velocity``."""

    def __call__(
        self,
        rows: Sequence[Tensor],
        modulation: Tensor,
        contexts: Sequence[RowContext],
        starts: Sequence[int],
        sinks: Sequence[Sink | None] = (),
    ) -> list[Tensor]:
        """As there."""
        ...


class Encoders(Protocol):
    """Faster ways to encode texts and prefixes; None for what they cannot do."""

    def text(self, ids: Tensor) -> KV | None:
        """``EchoDiT.encode_text``."""
        ...

    def prefix(self, patches: Tensor, past: Tensor | None) -> tuple[KV, Encoded] | None:
        """``EchoDiT.encode_prefix`` of patches in the model's dtype, on its device."""
        ...


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
        self,
        h: Tensor,
        modulation: Tensor,
        row_index: Tensor | None,
        rotary: Tensor,
        attend: Callable[[Tensor, Tensor, Tensor], Tensor],
    ) -> Tensor:
        """``h [latents, M]`` -> the same, with this block's ``modulation [rows, 6, M]``; see ``EchoDiT.forward``."""
        gate, q, k, v = self.before_attention(h, modulation, row_index, rotary)
        return self.after_attention(h, gate, attend(q, k, v), modulation, row_index)

    def before_attention(
        self, h: Tensor, modulation: Tensor, row_index: Tensor | None, rotary: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The block up to its attention: the gate, and queries, keys and values."""
        shift, scale = (_of_latents(part, row_index) for part in modulation.unbind(1)[:2])
        q, k, v, gate = self.attention.project(modulate(h, shift, scale, self.eps), rotary)
        return gate, q, k, v

    def after_attention(
        self, h: Tensor, gate: Tensor, attended: Tensor, modulation: Tensor, row_index: Tensor | None
    ) -> Tensor:
        """The block after its attention: output projection, gate and MLP, ``[latents, M]``."""
        attention_gate, shift, scale, mlp_gate = (_of_latents(part, row_index) for part in modulation.unbind(1)[2:])
        h = h + attention_gate * self.attention.finish(attended, gate)
        out: Tensor = h + mlp_gate * self.mlp(modulate(h, shift, scale, self.eps))
        return out


def _of_latents(part: Tensor, row_index: Tensor | None) -> Tensor:
    """Expand one part of the modulation from rows ``[rows, M]`` to latents ``[latents, M]``; one row broadcasts."""
    return part if row_index is None else part.index_select(0, row_index)


class EchoDiT(nn.Module):
    """The diffusion transformer with its encoders, for inference; any device and dtype, the meta device included.

    ``blockwise`` False leaves out the latent encoder and its projections (a checkpoint without them can only
    speak an utterance in one block).
    """

    def __init__(self, config: DiTConfig, *, blockwise: bool = True) -> None:
        super().__init__()
        self.config = config
        self.blockwise = blockwise
        #: Allocator of all K/V; None = every K/V is a tensor of its own.
        self.arena: Arena | None = None
        #: A faster ``velocity`` (captured CUDA graphs); None = no such.
        self.captured: Velocity | None = None
        #: Heads that tell where in the text a latent is; none: nobody knows. Set before steps are captured.
        self.watched: Heads = ()
        #: Faster encoders (captured CUDA graphs); None = no such.
        self.encoders: Encoders | None = None
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
        kv = self.encoders.text(ids) if self.encoders is not None else None
        return self.text_keys(to_device(ids, self.device)) if kv is None else kv

    def text_keys(self, ids: Tensor, mask: Tensor | None = None) -> KV:
        """K/V of ids on the device; ``mask [1, n]`` is False for padding, None without any."""
        return self._context(self.text_norm(self.text_encoder(ids, mask)), Source.TEXT)

    @torch.inference_mode()
    def encode_speaker(self, latents: Tensor, valid: int | None = None) -> KV:
        """K/V of a reference voice.

        latents  [n, latent_size], n a multiple of the patch size (ValueError otherwise)
        valid    how many of them are real (None = all). A patch counts when its first latent does.
        """
        patches = self._speaker_patches(latents, valid)
        if not len(patches):
            return self.allocate(0)
        return self._context(self.speaker_norm(self.speaker_encoder(patches).states), Source.SPEAKER)

    @torch.inference_mode()  # holds while the generator runs, not while it pauses
    def encode_speaker_in_slices(self, latents: Tensor, valid: int | None, patches: int) -> Generator[None, None, KV]:
        """``encode_speaker`` with a pause after each ``patches`` patches: the encoder is causal."""
        pieces: list[KV] = []
        past = None
        seen = self._speaker_patches(latents, valid)
        if not len(seen):
            return self.allocate(0)
        for piece in torch.split(seen, patches):
            encoded: Encoded = self.speaker_encoder(piece, past)
            past = encoded.kv
            pieces.append(self._context(self.speaker_norm(encoded.states), Source.SPEAKER))
            yield
        return torch.cat(pieces, dim=3)

    def _speaker_patches(self, latents: Tensor, valid: int | None) -> Tensor:
        """Those of which at least the first latent is real ``[seen, patch * latent_size]``, on the device."""
        patch = self.config.speaker_patch_size
        if latents.shape[0] % patch:
            raise ValueError(f"speaker latents must be a multiple of {patch}, not {latents.shape[0]}")
        seen = -(-(latents.shape[0] if valid is None else valid) // patch)
        # The encoder is causal: leaving out the unseen patches behind does not change the seen ones.
        return latents[: seen * patch].to(self.device, self.dtype).reshape(seen, patch * latents.shape[1])

    def encode_prefix(self, patches: Tensor, past: Tensor | None) -> tuple[KV, Encoded]:
        """K/V of ``patches [n, patch * latent_size]`` of spoken latents that follow those encoded as ``past``.

        Also returns the encoder's own output, whose K/V is the next call's ``past`` (see prefix.py).
        """
        patches = patches.to(self.device, self.dtype)
        found = self.encoders.prefix(patches, past) if self.encoders is not None else None
        return found or self.prefix_of(patches, past)

    def prefix_of(self, patches: Tensor, past: Tensor | None) -> tuple[KV, Encoded]:
        """``encode_prefix`` of patches in the model's dtype, on its device, unpadded."""
        encoded: Encoded = self.latent_encoder(patches, past)
        patch = self.config.speaker_patch_size
        first = 0 if past is None else past.shape[3]
        rotary = self.rotary(first * patch, patches.shape[0], self.device, stride=patch)
        return self.prefix_keys(encoded, rotary), encoded

    def prefix_keys(self, encoded: Encoded, rotary: Tensor) -> KV:
        """K/V of encoded patches at the positions of ``rotary``."""
        return self._context(self.latent_norm(encoded.states), Source.LATENT, rotary)

    def modulation(self, times: Sequence[float]) -> Tensor:
        """Modulation of all blocks at the given flow times: ``[len(times), layers, 6, M]`` in the model's dtype."""
        t = to_device(torch.tensor(times, dtype=torch.float32), self.device).to(self.dtype)
        condition = self.cond_module(timestep_embedding(t, self.config.timestep_embed_size))
        return torch.stack([block.modulation(condition) for block in self._blocks()], dim=1)

    def allocate(self, keys: int) -> KV:
        """A buffer for the K/V of that many keys; see ``kv.Allocate``."""
        if self.arena is not None:
            try:
                return self.arena.allocate(keys)
            except MemoryError:
                log.debug("the arena has no free range of %d keys", keys)
        config = self.config
        shape = (config.num_layers, 2, config.num_heads, keys, config.head_dim)
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def pack(
        self, rows: Sequence[Sequence[KV]], size: int, voices: Sequence[KV | None] | None = None
    ) -> list[RowContext]:
        """Prepare the context keys of the rows of a block of ``size`` latents; see ``kv.pack_context``."""
        if self.arena is not None and voices is not None:
            voices = [kv if kv is None or self.arena.holds(kv) else copy_into(kv, self.allocate) for kv in voices]
        return pack_context(rows, size, self.allocate, voices)

    def velocity(
        self,
        rows: Sequence[Tensor],
        modulation: Tensor,
        contexts: Sequence[RowContext],
        starts: Sequence[int],
        sinks: Sequence[Sink | None] = (),
    ) -> list[Tensor]:
        """The flow velocity (noise minus clean) of every row at its own flow time.

        rows        per row its noisy latents, [size, latent_size]; sizes may differ
        modulation  [rows, layers, 6, M], or one row for all: rows of ``modulation(times)``
        contexts    per row, from ``pack``; their own keys are overwritten
        starts      per row, the position of its first latent
        sinks       per row, what takes the queries of the watched heads; empty: nothing does
        returns     per row [size, latent_size] float32

        Queues work on the device and reads nothing back.
        """
        return (self.captured or self.row_by_row)(rows, modulation, contexts, starts, sinks)

    def row_by_row(
        self,
        rows: Sequence[Tensor],
        modulation: Tensor,
        contexts: Sequence[RowContext],
        starts: Sequence[int],
        sinks: Sequence[Sink | None] = (),
    ) -> list[Tensor]:
        """As ``velocity``, with one attention call per row: no row's result depends on the others."""
        sizes = [row.shape[0] for row in rows]
        queries = self.query_buffer(sum(sizes)) if any(sinks) else None
        velocity = self(
            torch.cat(list(rows)),
            modulation,
            _row_index(sizes, self.device) if modulation.shape[0] > 1 else None,
            torch.cat([self.rotary(start, size, self.device) for start, size in zip(starts, sizes, strict=True)]),
            RowByRow(contexts, sizes, None if queries is None else Watch(self.watched, queries)),
        )
        if queries is not None:
            hand_out(queries, sizes, sinks)
        return list(velocity.split(sizes))

    def queries(self, row: Tensor, modulation: Tensor, context: RowContext, heads: Heads, *, start: int = 0) -> Tensor:
        """Queries ``[heads, size, d]`` of any heads in a forward of one row; arguments as for ``velocity``."""
        size = row.shape[0]
        queries = self.query_buffer(size, heads)
        attention = RowByRow([context], [size], Watch(heads, queries))
        self(row, modulation, None, self.rotary(start, size, self.device), attention)
        return queries

    def query_buffer(self, latents: int, heads: Heads | None = None) -> Tensor:
        """Room for queries ``[heads, latents, d]`` of some heads; None = the watched ones."""
        count = len(self.watched if heads is None else heads)
        return torch.empty(count, latents, self.config.head_dim, dtype=self.dtype, device=self.device)

    def forward(
        self, x: Tensor, modulation: Tensor, row_index: Tensor | None, rotary: Tensor, attention: Attention
    ) -> Tensor:
        """One pass over latents of any number of rows, ``x [latents, latent_size]`` -> velocities, f32.

        modulation  [rows, layers, 6, M]; row_index [latents] is each latent's row in it (None: there is only one)
        rotary       [latents, ...], of the latents' positions
        """
        h = self.in_proj(x.to(self.dtype))
        for layer, block in enumerate(self._blocks()):
            h = block(h, modulation[:, layer], row_index, rotary, partial(attention, layer))
        velocity: Tensor = self.out_proj(self.out_norm(h))
        return velocity.float()

    def fuse(self) -> EchoDiT:
        """Fuse all weights that can be fused, before the first use; returns self."""
        fuse_all(self)
        return self

    def _context(self, state: Tensor, source: Source, rotary: Tensor | None = None) -> KV:
        return torch.stack([block.attention.context(state, source, rotary) for block in self._blocks()])

    def _blocks(self) -> Iterable[Block]:
        return cast("Iterable[Block]", self.blocks)


def _row_index(sizes: Sequence[int], device: torch.device) -> Tensor:
    """Index of each latent's row."""
    return to_device(torch.tensor([row for row, size in enumerate(sizes) for _ in range(size)]), device)
