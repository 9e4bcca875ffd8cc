"""A block model on plain numbers: latents count their steps, audio says which attempt it came from."""

import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from echo.model.base import Demand
from echo.types import SAMPLES_PER_LATENT, Audio, BlockPlan, BlockSpec, SamplerParams, TailRules, Utterance


@dataclass
class ToySampler:
    size: int
    steps: int
    noise_key: tuple[int, ...]
    prefix: int
    taken: int = 0
    next_rows: int = 3

    @property
    def done(self) -> bool:
        return self.taken == self.steps

    @property
    def latents(self) -> np.ndarray:
        seed, chunk, block, attempt = self.noise_key
        value = (seed * 1000 + chunk * 100 + block * 10 + attempt) / 1e6
        return np.full((self.size, 80), value, np.float32)


def seed_of(latents: np.ndarray) -> int:
    """Return the seed of the utterance that these latents are of."""
    return round(float(latents[0, 0]) * 1e6) // 1000


@dataclass
class ToyModel:
    """``speech_latents`` tells where speech ends; ``on_step`` is called with the noise keys of every tick."""

    speech_latents: int = 10_000
    on_step: Callable[[list[tuple[int, ...]]], None] = lambda keys: None
    fail_on: tuple[int, ...] | None = None
    #: Seeds whose blocks cannot be decoded.
    unreadable: frozenset[int] = frozenset()
    decodes_asynchronously: bool = False
    ticks: list[list[tuple[int, ...]]] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)

    def tokenize(self, text: str) -> str:
        return text

    def conditions(self, tokens: str, voice: Any) -> str:
        self.threads.add(threading.get_ident())
        if tokens == "fail":
            raise RuntimeError("cannot read this")
        return tokens

    def empty_prefix(self) -> int:
        return 0

    def extend(self, prefix: int, latents: np.ndarray) -> int:
        return prefix + len(latents)

    def sampler(
        self, conditions: str, prefix: int, spec: BlockSpec, params: SamplerParams, noise_key: tuple[int, ...]
    ) -> ToySampler:
        return ToySampler(spec.size, spec.steps, noise_key, prefix)

    def step(self, samplers: Sequence[ToySampler]) -> None:
        keys = [sampler.noise_key for sampler in samplers]
        self.on_step(keys)
        self.ticks.append(keys)
        for sampler in samplers:
            assert not sampler.done, "stepped past the end"
            if sampler.noise_key == self.fail_on:
                raise RuntimeError("device error")
            sampler.taken += 1

    def speech_end(self, spoken: Sequence[np.ndarray], rules: TailRules, *, last: bool) -> Callable[[], int | None]:
        total = sum(map(len, spoken))
        end = None if total < self.speech_latents and not last else min(total, self.speech_latents)
        return lambda: end

    def lost_with(self, error: Exception) -> bool:
        return str(error) == "the device is lost"

    def out_of_memory(self, error: Exception) -> bool:
        return isinstance(error, torch.OutOfMemoryError)

    def decode(self, states: Sequence[Any], latents: Sequence[np.ndarray]) -> Callable[[], Sequence[tuple[Audio, Any]]]:
        if self.unreadable & {seed_of(z) for z in latents}:
            raise RuntimeError("cannot decode this")
        decoded = [
            (np.repeat(z[:, 0], SAMPLES_PER_LATENT).astype(np.float32), (state or 0) + len(z))
            for state, z in zip(states, latents, strict=True)
        ]
        return lambda: decoded

    def demand(self, utterance: Utterance, tokens: str) -> Demand:
        blocks = utterance.plan.blocks
        return Demand(max(block.size for block in blocks), sum(3.0 * block.size * block.steps for block in blocks))

    def encode_voice_in_slices(self, audio: Audio) -> Generator[None, None, Any]:
        self.threads.add(threading.get_ident())
        yield
        return None


def utterance(
    seed: int = 1, *, blocks: Sequence[tuple[int, int]] = ((4, 2), (8, 3)), chunk: int = 0, text: str = "hi"
) -> Utterance:
    plan = BlockPlan(blocks=tuple(BlockSpec(size=size, steps=steps) for size, steps in blocks))
    return Utterance(text=text, plan=plan, seed=seed, chunk=chunk)
