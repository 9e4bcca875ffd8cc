"""Blocks sized from a text's estimated length, so that little is generated behind the end of speech."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from echo.types import LATENT_S, BlockPlan, BlockSpec

#: Sizes are multiples of this many latents: what steps and decoder are captured for on a GPU.
GRAIN = 32
#: Blocks behind those that the estimate asks for, in latents: small, because few texts need one, and then little of it.
_MORE = 64
#: Speech may take this much longer than estimated before it needs one of those.
_MARGIN = 1.1


def sized_plan(plan: BlockPlan, estimate_s: float) -> BlockPlan:
    """Return a sized plan for a text that probably takes ``estimate_s`` seconds; any other plan as it is.

    The blocks are those of the plan until the text has probably ended and been silent for as long as ends an utterance;
    the last of them is cut to that. Small blocks follow, up to the plan's length, for speech that takes longer.
    The first of several blocks is never cut: the first sound waits for it.
    """
    if not plan.sized:
        return plan
    needed = math.ceil(_MARGIN * estimate_s / LATENT_S) + plan.tail.zero_tail_frames
    # Speech may end so close to a block's end that the silence behind it is too short to be a flat tail.
    tail = replace(plan.tail, cut_silent_tail=True)
    return replace(plan, blocks=_sized(plan.blocks, needed), tail=tail, sized=False)


def _sized(blocks: Sequence[BlockSpec], needed: int) -> tuple[BlockSpec, ...]:
    limit = sum(block.size for block in blocks)
    found: list[BlockSpec] = []
    made = 0
    for block in blocks:
        if made >= needed:
            break
        size = block.size
        if found or len(blocks) == 1:
            size = min(size, GRAIN * math.ceil((needed - made) / GRAIN))
        found.append(replace(block, size=size))
        made += size
    last = blocks[min(len(found), len(blocks) - 1)]
    while made < limit:
        found.append(replace(last, size=min(_MORE, limit - made)))
        made += found[-1].size
    return tuple(found)
