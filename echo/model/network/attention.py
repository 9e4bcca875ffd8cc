"""The transformer's attention: projections of an input, keys of the conditions, and the attention of a step's rows.

In a step every row attends to its own keys, to its context, and to a voice that it may share with other rows. The
shared keys are attended separately and the two results are blended by their softmax weights, which is exact. So a
voice's K/V lie in memory once, however many rows and requests use it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echo.model.network.config import DiTConfig
from echo.model.network.kv import RowContext
from echo.model.network.layers import Fused, RMSNorm, rms_norm, rotate, split_heads
from echo.model.network.watch import Watch


class Projected(NamedTuple):
    """Queries, keys and values ``[..., n, heads, d]`` and the gate ``[..., n, heads * d]``."""

    q: Tensor
    k: Tensor
    v: Tensor
    gate: Tensor


class GatedAttention(Fused):
    """Base of the attentions: one matrix product gives q, k, v and the gate; q and k are normed and rotated together.

    ``rotated`` is the number of heads, from the first, with rotary positions; the others have no positions.
    """

    fused_names = ("wq", "wk", "wv", "gate")

    def __init__(self, size: int, heads: int, eps: float, *, rotated: int) -> None:
        super().__init__()
        self.heads = heads
        self.rotated = rotated
        self.wq = nn.Linear(size, size, bias=False)
        self.wk = nn.Linear(size, size, bias=False)
        self.wv = nn.Linear(size, size, bias=False)
        self.wo = nn.Linear(size, size, bias=False)
        self.gate = nn.Linear(size, size, bias=False)
        self.q_norm = RMSNorm((heads, size // heads), eps)
        self.k_norm = RMSNorm((heads, size // heads), eps)

    def project(self, x: Tensor, rotary: Tensor) -> Projected:
        """Project ``x [n, size]`` at the positions of ``rotary [n, ...]``."""
        size = x.shape[-1]
        qk, v, gate = torch.split(F.linear(x, self.fuse()), [2 * size, size, size], dim=-1)
        heads = split_heads(qk, 2 * self.heads)
        normed = rms_norm(heads, torch.cat((self.q_norm.weight, self.k_norm.weight)), self.q_norm.eps)
        both = normed.reshape(-1, 2, self.heads, normed.shape[-1])
        q, k = rotate_first(both, rotary[:, None], self.rotated).unbind(1)
        return Projected(q, k, split_heads(v, self.heads), gate)

    def finish(self, attended: Tensor, gate: Tensor) -> Tensor:
        """Apply the gate to the heads' output ``[n, heads, d]`` and project it to ``[n, size]``."""
        out: Tensor = self.wo(attended.flatten(-2) * torch.sigmoid(gate))
        return out


def rotate_first(x: Tensor, rotary: Tensor, count: int) -> Tensor:
    """Rotate the first ``count`` heads of ``[..., heads, d]`` to the positions of ``rotary``."""
    turned = rotate(x[..., :count, :], rotary)
    return turned if count == x.shape[-2] else torch.cat((turned, x[..., count:, :]), dim=-2)


class Source(StrEnum):
    """The condition that context keys come from; the value is the suffix of the projection's name."""

    TEXT = "text"
    SPEAKER = "speaker"
    LATENT = "latent"


class JointAttention(GatedAttention):
    """Gated attention of a row over its own keys and its context keys; without ``blockwise`` there are no latent keys.

    Half of the heads have rotary positions.
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

    def context(self, state: Tensor, source: Source, rotary: Tensor | None = None) -> Tensor:
        """K/V ``[2, heads, n, d]`` of an encoder state ``[n, m]``; ``rotary`` where the keys have positions."""
        k = self.k_norm(split_heads(self.get_submodule(f"wk_{source}")(state), self.heads))
        v = split_heads(self.get_submodule(f"wv_{source}")(state), self.heads)
        if rotary is not None:
            k = rotate_first(k, rotary, self.rotated)
        return torch.stack((k, v)).transpose(1, 2)


class Attention(Protocol):
    """Attention of all rows of a step, whose latents are concatenated in one dimension."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Queries, own keys and own values of all rows -> attention output; each ``[latents, heads, d]``."""
        ...


class RowByRow:
    """One attention call per row and one per voice: no mask, no padding, and no row's result depends on other rows.

    contexts, sizes   per row, in the order of the latents; the own keys in ``contexts`` are overwritten
    watch             takes queries out; None = nobody wants any
    """

    def __init__(self, contexts: Sequence[RowContext], sizes: Sequence[int], watch: Watch | None = None) -> None:
        self._watch = watch
        self._rows = [
            (
                slice(end - size, end),
                context.keys.unbind(0),
                context.own.unbind(0),
                context.voice.unbind(0) if context.voice is not None else None,
            )
            for context, size, end in zip(contexts, sizes, itertools.accumulate(sizes), strict=True)
        ]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Implement ``Attention``."""
        if self._watch is not None:
            self._watch.take(layer, q)
        out = torch.empty_like(q)
        for span, keys, own, voice in self._rows:
            own[layer][0].copy_(k[span].transpose(0, 1))
            own[layer][1].copy_(v[span].transpose(0, 1))
            mine, weight = attend(q[span], keys[layer])
            if voice is not None:
                shared, its_weight = attend(q[span], voice[layer])
                mine = blend(mine, weight, shared, its_weight)
            out[span] = mine
        return out


def blend(a: Tensor, a_weight: Tensor, b: Tensor, b_weight: Tensor) -> Tensor:
    """Merge two results of ``attend`` into one softmax over both sets of keys; shapes are those of ``attend``."""
    return torch.lerp(a, b, torch.sigmoid(b_weight - a_weight)[..., None].type_as(a))


def attend(q: Tensor, keys: Tensor, *, fast: bool = True) -> tuple[Tensor, Tensor]:
    """Attention of ``q [n, heads, d]`` to ``keys [2, heads, m, d]``, m >= 1, without a mask.

    ``fast`` allows the fused CPU kernel. Returns the output ``[n, heads, d]`` and its log-sum-exp ``[n, heads]`` f32.
    """
    queries = q.transpose(0, 1)[None]
    if fast and q.device.type == "cpu":
        # The kernel of scaled_dot_product_attention on a CPU, called by name because it also returns the log-sum-exp.
        out, weight = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(queries, keys[None, 0], keys[None, 1])
    else:
        # f32 before the product: scores rounded to bfloat16 are off by more than those of FlashAttention.
        scores = (queries.float() @ keys[None, 0].transpose(-1, -2).float()) * q.shape[-1] ** -0.5
        weight = scores.logsumexp(-1)
        out = ((scores - weight[..., None]).exp() @ keys[None, 1].float()).type_as(q)
    return out[0].transpose(0, 1), weight[0].transpose(0, 1)
