"""Finds the attention heads that follow the text: the model speaks some sentences, and every head is looked at."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from echo.model.network.dit import EchoDiT
from echo.model.network.kv import key_count
from echo.model.network.modulation import ModulationCache
from echo.model.network.watch import Heads, keys_of, single_attention
from echo.model.sampling.prefix import Prefix
from echo.model.sampling.sampler import BlockSampler, draw_noise, make_conditions
from echo.timing.path import TextPath
from echo.types import LATENT_S, BlockSpec, SamplerParams, TextAttention

#: What the model speaks. Plain words of every length, because a head shall follow letters, not sentences.
SENTENCES = (
    "[S1] The old man walked slowly down to the river, and sat under the tall green trees.",
    "[S1] Please bring me a glass of water and two small spoons from the kitchen table.",
    "[S1] She wrote a long letter to her brother about the summer that they had spent together.",
)
#: Tokens in front of what is spoken: the begin token and the speaker tag with its blank.
BOS_AND_TAG = 1 + len("[S1] ")
#: Steps and noise: few and little, since nobody listens. The latents are looked at once more, with this much noise.
_STEPS, _TRUNCATION, _NOISE = 10, 0.85, 0.1
_PARAMS = SamplerParams(cfg_scale_text=3.0, cfg_scale_speaker=0.0, cfg_min_t=0.3)
#: Characters a second, slowly spoken, to size the block by; a multiple of so many latents.
_CHARS_PER_S, _GRAIN = 11.0, 32

#: Most heads that are watched; more are no better and cost more.
MOST_HEADS = 4
#: Heads of which the path is looked for, those whose attention rises most steadily.
_CANDIDATES = 40
#: A head follows the text if this share of its attention is within so many tokens of its path.
_NEAR, _LEAST_SHARE = 2.5, 0.35
#: It must come through this share of the text, and agree with the best head to within so many tokens.
_LEAST_COVERED, _AGREE = 0.8, 4.0


@dataclass(frozen=True, slots=True)
class Found:
    """Heads that follow the text, the best first, and the share of each one's attention that is near its path."""

    heads: Heads
    shares: tuple[float, ...]


def search(dit: EchoDiT, tokens: Sequence[Sequence[int]], first: int) -> Generator[None, None, Found]:
    """Find the heads; ``tokens`` of some sentences, spoken from token ``first`` on. Yields where other work may run."""
    heads = tuple((layer, head) for layer in range(dit.config.num_layers) for head in range(dit.config.num_heads))
    looks = []
    for number, ids in enumerate(tokens):
        looks.append((yield from _look(dit, torch.tensor(ids, dtype=torch.int32), number, heads)))
        yield
    return choose(heads, looks, first)


def _look(dit: EchoDiT, ids: Tensor, seed: int, heads: Heads) -> Generator[None, None, TextAttention]:
    """Attention ``[heads, latents, tokens]`` of all heads to a sentence that the model has spoken."""
    size = _GRAIN * math.ceil(len(ids) / _CHARS_PER_S / LATENT_S / _GRAIN)
    conditions = make_conditions(dit, ids)
    noise = draw_noise(seed, 0, 0, 0, size)
    spec = BlockSpec(size=size, steps=_STEPS, truncation=_TRUNCATION)
    tables = ModulationCache(dit.modulation)
    sampler = BlockSampler(dit, conditions, Prefix(dit), spec, _PARAMS, noise, tables=tables)
    while not sampler.done:
        sampler.step()
        yield
    with torch.inference_mode():
        latents = (1 - _NOISE) * sampler.latents + _NOISE * noise.to(dit.device)
        context = dit.pack([[conditions.text]], size)[0]
        queries = dit.queries(latents, dit.modulation([_NOISE]), context, heads)
        assert key_count(conditions.text) == len(ids)
        found: TextAttention = single_attention(queries, keys_of(conditions.text, heads)).cpu().numpy()
    return found


def choose(heads: Heads, looks: Sequence[TextAttention], first: int) -> Found:
    """Choose among heads by their attention ``[heads, latents, tokens]`` to each of some sentences."""
    steady = np.mean([_steadiness(look) for look in looks], axis=0)
    candidates = np.argsort(-steady)[:_CANDIDATES]
    shares: dict[int, float] = {}
    paths: dict[int, list[npt.NDArray[np.float64]]] = {}
    for head in candidates:
        followed = [_follow(look[head], first) for look in looks]
        shares[int(head)] = float(np.mean([share for share, _ in followed]))
        paths[int(head)] = [path for _, path in followed]
    ranked = sorted(shares, key=lambda head: -shares[head])
    best = [
        head
        for head in ranked
        if shares[head] >= _LEAST_SHARE
        and all(np.median(np.abs(a - b)) <= _AGREE for a, b in zip(paths[head], paths[ranked[0]], strict=True))
    ][:MOST_HEADS]
    return Found(tuple(heads[head] for head in best), tuple(shares[head] for head in best))


def _steadiness(look: TextAttention) -> npt.NDArray[np.float64]:
    """Correlation of time and of the token that has most attention, of every head."""
    places = look.argmax(-1).astype(np.float64)
    times = np.arange(places.shape[1], dtype=np.float64)
    places -= places.mean(1, keepdims=True)
    times -= times.mean()
    steady: npt.NDArray[np.float64] = (places @ times) / (np.linalg.norm(places, axis=1) * np.linalg.norm(times) + 1e-9)
    return steady


def _follow(attention: TextAttention, first: int) -> tuple[float, npt.NDArray[np.float64]]:
    """How much of one head's attention is near its own path, 0 where that leaves out much of the text; and the path."""
    tokens = attention.shape[1]
    path = TextPath(tokens, first).push(attention)
    # Behind the last word there is silence, and attention to it says nothing.
    speech = path < tokens - 1.5
    if (path[-1] - path[0]) / (tokens - first) < _LEAST_COVERED or not speech.any():
        return 0.0, path
    near = np.abs(np.arange(tokens) + 0.5 - path[:, None]) <= _NEAR
    return float((attention * near).sum(1)[speech].mean()), path
