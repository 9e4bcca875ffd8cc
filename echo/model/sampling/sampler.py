"""The sampler of one utterance: Euler steps block after block.

Batching several utterances is a matter of running the rows of several ``BlockSampler`` in one forward
(``step_together``); what a block does in a step is said here and nowhere else.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from echo.model.network.dit import EchoDiT
from echo.model.network.kv import KV, RowContext, key_count, scaled
from echo.model.network.modulation import ModulationCache
from echo.model.network.transfer import to_device
from echo.model.network.watch import Sink, keys_of, text_attention
from echo.model.sampling.guidance import Branch, Conditions, combine, rescale
from echo.model.sampling.prefix import Prefix
from echo.model.sampling.schedule import make_schedule
from echo.model.sampling.tail import ends_in_silence
from echo.types import LATENT_SIZE, BlockSpec, SamplerParams, TailRules


def draw_noise(seed: int, chunk: int, block: int, attempt: int, size: int) -> Tensor:
    """Standard normal noise ``[size, 80]`` f32 on the CPU, the same wherever and beside whatever the block runs.

    Chunk i of seed s starts from the noise of chunk 0 of seed s + i, as in the reference.
    """
    key = f"{seed + chunk}/{block}/{attempt}".encode()
    mixed = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little", signed=True)
    generator = torch.Generator(device="cpu").manual_seed(mixed)
    return torch.randn(size, LATENT_SIZE, generator=generator, dtype=torch.float32, device="cpu")


@dataclass(frozen=True, slots=True, eq=False)
class StepRows:
    """What a block contributes to the next forward: one row per guidance branch, cond first.

    x           [size, latent_size], the same for all of the block's rows, as the rest is but for the contexts
    modulation  [1, layers, 6, M]
    start       position of the first latent
    sink        takes the queries of the first row; None = they are not wanted
    """

    x: Tensor
    modulation: Tensor
    contexts: tuple[RowContext, ...]
    start: int
    sink: Sink | None = None


class BlockSampler:
    """One block of one utterance on its way from noise to latents; ``step`` takes one Euler step.

    noise  [size, latent_size] f32, before truncation (ValueError for another shape)

    A step that fails changes nothing, so that it can be repeated: what may find no memory, ``rows`` and ``stepped``,
    comes before ``take``.

    The K/V given in are only read. All methods run on the model's device without waiting for it.
    """

    @torch.inference_mode()
    def __init__(
        self,
        model: EchoDiT,
        conditions: Conditions,
        prefix: Prefix,
        spec: BlockSpec,
        params: SamplerParams,
        noise: Tensor,
        *,
        tables: ModulationCache,
    ) -> None:
        if noise.shape != (spec.size, model.config.latent_size):
            raise ValueError(f"noise of a block must be {(spec.size, model.config.latent_size)}, not {noise.shape}")
        self._model = model
        self._conditions = conditions
        self._prefix = prefix
        self._params = params
        self._size = spec.size
        self.schedule = make_schedule(spec, params)
        self._table = tables.table(self.schedule.times[:-1])
        self._branches = conditions.branches(params) if any(self.schedule.guided) else (Branch.COND,)
        self._step = 0
        self._attention: Tensor | None = None
        self._contexts = self._pack()
        self._x = to_device(noise.float(), model.device) * (1.0 if spec.truncation is None else spec.truncation)

    @property
    def done(self) -> bool:
        """Whether all steps were taken."""
        return self._step == self.schedule.steps

    @property
    def next_rows(self) -> int:
        """Rows that the next step adds to a batch."""
        return len(self._next_branches())

    @property
    def latents(self) -> Tensor:
        """``[size, latent_size]`` f32: the block when done, else its noisy state."""
        return self._x

    @property
    def attention(self) -> Tensor | None:
        """Attention to the text of a block that is done, ``[size, tokens]`` f32; None where no heads are watched.

        It is of the last step, when the latents are all but final.
        """
        return self._attention

    def rows(self) -> StepRows:
        """The rows of the next step."""
        if not self._contexts:
            self._contexts = self._pack()
        branches = self._next_branches()
        return StepRows(
            x=self._x,
            modulation=self._table[self._step, None],
            contexts=self._contexts[: len(branches)],
            start=self._prefix.length,
            sink=self._attend if self._model.watched and self._step + 1 == self.schedule.steps else None,
        )

    @torch.inference_mode()
    def stepped(self, velocities: Sequence[Tensor]) -> Tensor:
        """Return the latents behind the step, given the velocity ``[size, latent_size]`` of each of ``rows()``."""
        params, i = self._params, self._step
        t, following = self.schedule.times[i : i + 2]
        by_branch = dict(zip(self._next_branches(), velocities, strict=True))
        v = combine(by_branch, params.cfg_scale_text, params.cfg_scale_speaker)
        if params.rescale_k is not None and params.rescale_sigma is not None:
            v = rescale(v, self._x, t, params.rescale_k, params.rescale_sigma)
        return torch.add(self._x, v, alpha=following - t)

    def take(self, x: Tensor) -> None:
        """Take the step: ``x`` is what ``stepped`` has returned."""
        self._x = x
        self._step += 1
        if self.done or self._step == self.schedule.scaled_steps:
            self._contexts = ()  # packed again if need be; the packed keys are the block's largest memory

    def step(self) -> None:
        """One Euler step of this block alone."""
        step_together(self._model, [self])

    def _attend(self, queries: Tensor) -> None:
        self._attention = text_attention(queries, keys_of(self._conditions.text, self._model.watched))

    def _next_branches(self) -> tuple[Branch, ...]:
        return self._branches if self.schedule.guided[self._step] else (Branch.COND,)

    def _pack(self) -> tuple[RowContext, ...]:
        """Context of every branch, with the speaker's K/V scaled or not as the next step wants it."""
        params, speaker = self._params, self._conditions.speaker
        if speaker is not None and key_count(speaker) == 0:
            speaker = None
        scale = params.speaker_kv_scale
        if speaker is not None and scale is not None and self._step < self.schedule.scaled_steps:
            speaker = scaled(speaker, scale, params.speaker_kv_max_layers, self._model.allocate)
        rows = [self._conditions.sources(branch, self._prefix.kv) for branch in self._branches]
        voices = [None if branch is Branch.NO_SPEAKER else speaker for branch in self._branches]
        return tuple(self._model.pack(rows, self._size, voices))


@torch.inference_mode()
def step_together(model: EchoDiT, samplers: Sequence[BlockSampler]) -> None:
    """One Euler step of several blocks in one forward; sizes, prefixes, conditions and flow times may differ.

    Where it fails, none of them has been stepped.
    """
    parts = [sampler.rows() for sampler in samplers]
    one = len(parts) == 1
    # The first row of a block is the one with all conditions.
    sinks = [sink for part in parts for sink in (part.sink, *[None] * (len(part.contexts) - 1))]
    velocities = iter(
        model.velocity(
            [part.x for part in parts for _ in part.contexts],
            parts[0].modulation
            if one
            else torch.cat([part.modulation.expand(len(part.contexts), -1, -1, -1) for part in parts]),
            [context for part in parts for context in part.contexts],
            [part.start for part in parts for _ in part.contexts],
            sinks if any(sinks) else (),
        )
    )
    stepped = [
        sampler.stepped(list(itertools.islice(velocities, len(part.contexts))))
        for sampler, part in zip(samplers, parts, strict=True)
    ]
    for sampler, x in zip(samplers, stepped, strict=True):
        sampler.take(x)


def make_conditions(model: EchoDiT, ids: Tensor, speaker: KV | None = None) -> Conditions:
    """Encode the text ``ids [n]`` (BOS first)."""
    return Conditions(text=model.encode_text(ids), speaker=speaker)


def sample_oneshot(
    model: EchoDiT,
    conditions: Conditions,
    spec: BlockSpec,
    params: SamplerParams,
    noise: Tensor,
    *,
    tables: ModulationCache | None = None,
) -> Tensor:
    """An utterance in one block: noise ``[size, latent_size]`` -> latents of the same shape, f32."""
    return sample_blockwise(model, conditions, [spec], params, [noise], tables=tables)


@torch.inference_mode()
def sample_blockwise(
    model: EchoDiT,
    conditions: Conditions,
    blocks: Sequence[BlockSpec],
    params: SamplerParams,
    noises: Sequence[Tensor],
    *,
    continuation: Tensor | None = None,
    early_stop: TailRules | None = None,
    tables: ModulationCache | None = None,
) -> Tensor:
    """An utterance block after block, each seeing all latents before it.

    noises        per block ``[size, latent_size]``, before truncation
    continuation  latents to speak on from, ``[n, latent_size]``; their transcript must open the text
    early_stop    end after a block that these rules call silent (None = never); what is left stays zero
    returns       continuation and all blocks, ``[n + Σ sizes, latent_size]`` f32
    """
    tables = tables or ModulationCache(model.modulation)
    start = torch.zeros(0, model.config.latent_size) if continuation is None else continuation
    spoken = [start.to(model.device, torch.float32)]
    prefix = Prefix(model).append(spoken[0]) if continuation is not None else Prefix(model)
    for i, (spec, noise) in enumerate(zip(blocks, noises, strict=True)):
        sampler = BlockSampler(model, conditions, prefix, spec, params, noise, tables=tables)
        while not sampler.done:
            sampler.step()
        spoken.append(sampler.latents)
        if early_stop is not None and ends_in_silence(sampler.latents, early_stop):
            rest = sum(block.size for block in blocks[i + 1 :])
            spoken.append(sampler.latents.new_zeros(rest, model.config.latent_size))
            break
        if i + 1 < len(blocks):
            prefix = prefix.append(sampler.latents)
    return torch.cat(spoken)
