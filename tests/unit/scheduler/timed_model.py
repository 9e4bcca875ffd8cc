"""The toy model with a clock of its own that every call moves on, and jobs for it: a device in virtual time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from echo.model.base import Demand, Prepared
from echo.scheduler.job import BlockJob
from echo.stream import FrameStream
from echo.types import SAMPLE_RATE, Audio, TailRules, Utterance
from tests.unit.scheduler.toy_model import ToyModel, ToySampler, seed_of


@dataclass(frozen=True)
class Costs:
    """Seconds; by default those of the embedded model on one core."""

    prepare: float = 0.006
    step: float = 0.0028
    row_latent: float = 0.000132
    decode: float = 0.0
    latent: float = 0.0008


@dataclass
class TimedModel(ToyModel):
    """``lengths`` tells after how many latents the speech of a seed ends."""

    costs: Costs = field(default_factory=Costs)
    lengths: dict[int, int] = field(default_factory=dict)
    rows: int = 2
    now: float = 0.0

    def clock(self) -> float:
        return self.now

    def seconds(self, blocks: Sequence[tuple[int, int]]) -> float:
        """Return how long an utterance of these (latents, steps) takes alone."""
        costs = self.costs
        return sum(
            costs.prepare
            + steps * (costs.step + costs.row_latent * self.rows * size)
            + (costs.decode + costs.latent * size)
            for size, steps in blocks
        )

    def demand(self, utterance: Utterance, tokens: str) -> Demand:
        blocks = utterance.plan.blocks
        work = sum(float(self.rows * block.size * block.steps) for block in blocks)
        return Demand(max(block.size for block in blocks), work)

    def sampler(self, *arguments: Any) -> ToySampler:
        self.now += self.costs.prepare
        sampler = super().sampler(*arguments)
        sampler.next_rows = self.rows
        return sampler

    def step(self, samplers: Sequence[ToySampler]) -> None:
        row_latents = sum(sampler.size * sampler.next_rows for sampler in samplers)
        self.now += self.costs.step + self.costs.row_latent * row_latents
        super().step(samplers)

    def decode(self, states: Sequence[Any], latents: Sequence[np.ndarray]) -> list[tuple[Audio, Any]]:
        self.now += self.costs.decode + self.costs.latent * sum(map(len, latents))
        return super().decode(states, latents)

    def speech_end(self, spoken: Sequence[np.ndarray], rules: TailRules, *, last: bool) -> Callable[[], int | None]:
        self.speech_latents = self.lengths.get(seed_of(spoken[0]), 10_000)
        return super().speech_end(spoken, rules, last=last)

    def job(
        self, utterance: Utterance, order: int, *, arrived: float | None = None, first_sound_s: float = 1.0
    ) -> BlockJob:
        """Return a job that arrives now, or has arrived a little before."""
        arrived = self.now if arrived is None else arrived
        return BlockJob(
            utterance,
            FrameStream(),
            Prepared(utterance.text, self.demand(utterance, utterance.text)),
            order=order,
            arrived=arrived,
            first_deadline=arrived + first_sound_s,
            rate=SAMPLE_RATE,
        )
