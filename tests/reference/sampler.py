"""Two habits of the reference implementation's samplers that the product does not have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from echo.model.network.dit import EchoDiT
from echo.model.network.kv import KV
from echo.model.network.modulation import ModulationCache
from echo.model.sampling.guidance import Branch, Conditions
from echo.model.sampling.prefix import Prefix
from echo.model.sampling.sampler import BlockSampler
from echo.types import BlockSpec, SamplerParams


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BosConditions(Conditions):
    """The row without text sees the K/V of BOS alone, as in the streaming variant, and not nothing."""

    bos: KV

    def sources(self, branch: Branch, latent: KV | None) -> list[KV]:
        if branch is Branch.NO_TEXT:
            return [kv for kv in (self.bos, latent) if kv is not None]
        return Conditions.sources(self, branch, latent)


def bos_conditions(model: EchoDiT, ids: Tensor, speaker: KV | None = None) -> BosConditions:
    return BosConditions(text=model.encode_text(ids), speaker=speaker, bos=model.encode_text(ids[:1]))


@torch.inference_mode()
def sample_with_compounding(
    model: EchoDiT,
    conditions: Conditions,
    blocks: Sequence[BlockSpec],
    params: SamplerParams,
    noises: Sequence[Tensor],
) -> Tensor:
    """Sample blockwise, and multiply the speaker's K/V again in every block unless a step restored it.

    The reference does so by mistake. Shapes are those of ``echo.model.sampling.sampler.sample_blockwise``.
    """
    assert params.speaker_kv_scale is not None
    tables, prefix, spoken, gain = ModulationCache(model.modulation), Prefix(model), [], 1.0
    for spec, noise in zip(blocks, noises, strict=True):
        scaled = replace(params, speaker_kv_scale=gain * params.speaker_kv_scale)
        sampler = BlockSampler(model, conditions, prefix, spec, scaled, noise, tables=tables)
        while not sampler.done:
            sampler.step()
        spoken.append(sampler.latents)
        prefix = prefix.append(sampler.latents)
        if not sampler.schedule.speaker_restored:
            gain *= params.speaker_kv_scale
    return torch.cat(spoken)
