"""Jobs that are admitted by their estimated demand always find room in the arena of that budget."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
import torch

from echo.engines.accelerate import make_arena
from echo.model.network.dit import EchoDiT
from echo.model.network.kv import KV, RowContext
from echo.model.sampling.demand import estimate_demand
from echo.sizing import sized_plan
from echo.types import BlockPlan, BlockSpec
from tests.unit.small_echo import small_dit

PLAN = BlockPlan(blocks=tuple(BlockSpec(size=size, steps=2) for size in (32, 128, 480)), sized=True)


@dataclass
class Job:
    """An active utterance as the arena sees it."""

    plan: BlockPlan
    text: KV
    voice: KV | None
    demand: float
    block: int = 0
    contexts: list[RowContext] = field(default_factory=list)


def new_job(dit: EchoDiT, sized: bool, voices: dict[int, KV], choose: random.Random) -> Job:
    plan = sized_plan(PLAN, choose.choice([1.0, 4.0, 9.0, 25.0])) if sized else PLAN
    text, name = choose.randint(5, 250), choose.randint(0, 12)
    voice = None
    if name:
        voice = voices.setdefault(name, torch.zeros((*dit.allocate(0).shape[:3], 20 * name, dit.config.head_dim)))
    demand = estimate_demand(
        dit.config, plan, itemsize=4, text_keys=text, speaker_keys=20 * name, decode_bytes=0, estimate_s=None
    )
    return Job(plan, torch.zeros(*dit.allocate(0).shape[:3], text, dit.config.head_dim), voice, demand.nbytes)


def next_block(dit: EchoDiT, job: Job) -> None:
    """Pack the contexts of the job's next block while those of the block before it still exist."""
    size = job.plan.blocks[job.block].size
    before = sum(block.size for block in job.plan.blocks[: job.block])
    prefix = torch.zeros(*job.text.shape[:3], before // dit.config.speaker_patch_size, dit.config.head_dim)
    rows = [[job.text, prefix], [prefix], [job.text, prefix]]
    job.contexts = dit.pack(rows, size, [job.voice, job.voice, None])
    job.block += 1


@pytest.mark.parametrize("sized", [False, True])
@pytest.mark.parametrize("streams", [6, 60])
@pytest.mark.slow
def test_whoever_is_admitted_finds_room(sized: bool, streams: int) -> None:
    choose = random.Random(streams)
    dit = small_dit(torch.float32)
    one = estimate_demand(dit.config, PLAN, itemsize=4, text_keys=250, speaker_keys=240, decode_bytes=0).nbytes
    budget = int(streams * one)
    dit.arena = make_arena(dit, budget, 0)
    voices: dict[int, KV] = {}
    jobs: list[Job] = []
    used = 0.0
    for _ in range(300):
        while True:
            job = new_job(dit, sized, voices, choose)
            if used + job.demand > budget:
                break
            jobs.append(job)
            used += job.demand
        number = choose.randrange(len(jobs))
        job = jobs[number]
        if job.block == len(job.plan.blocks) or (job.block and choose.random() < 0.1):
            used -= jobs.pop(number).demand
            continue
        next_block(dit, job)
        assert all(dit.arena.holds(context.buffer) for context in job.contexts)
