"""Estimate memory and compute of an utterance from the model's sizes."""

from __future__ import annotations

import itertools

from echo.model.base import Demand
from echo.model.network.config import DiTConfig
from echo.model.sampling.guidance import guided_branches
from echo.model.sampling.schedule import make_schedule
from echo.types import LATENT_S, BlockPlan


def estimate_demand(
    config: DiTConfig,
    plan: BlockPlan,
    *,
    itemsize: int,
    text_keys: int,
    speaker_keys: int,
    decode_bytes: int,
    estimate_s: float | None = None,
) -> Demand:
    """Estimate the memory of an utterance's largest block, and the work until its speech has probably ended.

    itemsize      bytes per number of the model's dtype
    text_keys     tokens of the text; speaker_keys: patches of the voice, 0 without one
    decode_bytes  decoder state of a stream
    estimate_s    seconds of speech to expect; None = all that the plan allows

    A voice is counted for every utterance that uses it, although they share it. Short-lived copies (a context that is
    packed again while the old one still exists) are not counted.
    """
    patch = config.speaker_patch_size
    rows = len(guided_branches(plan.params, has_speaker=speaker_keys > 0))
    voice_copies = 1 if plan.params.speaker_kv_scale is None else 2
    key_bytes = config.num_layers * 2 * config.model_size * itemsize
    encoder_key_bytes = config.speaker_num_layers * 2 * config.speaker_model_size * itemsize
    starts = itertools.accumulate((block.size for block in plan.blocks), initial=0)
    largest = 0
    for start, block in zip(starts, plan.blocks, strict=False):
        prefix_keys = -(-start // patch)
        context = text_keys + prefix_keys
        # Two rows share one copy of the context, with their own keys on its two sides (``kv.pack_context``).
        packed = -(-rows // 2) * (2 * block.size + context)
        keys = context + packed + voice_copies * speaker_keys
        largest = max(largest, keys * key_bytes + prefix_keys * encoder_key_bytes)
    latents = 2 * plan.latents * config.latent_size * 4  # float32: the finished ones and the current block
    return Demand(largest + latents + decode_bytes, row_latents(plan, rows, estimate_s))


def row_latents(plan: BlockPlan, rows: int, estimate_s: float | None) -> float:
    """Rows times latents, summed over the steps of the blocks that hold ``estimate_s`` seconds; None = of all."""
    needed = plan.latents if estimate_s is None else estimate_s / LATENT_S
    work = latents = 0
    for block in plan.blocks:
        schedule = make_schedule(block, plan.params)
        work += block.size * sum(rows if guided else 1 for guided in schedule.guided)
        latents += block.size
        if plan.tail.early_stop_on_zero and latents >= needed:
            break
    return float(work)
