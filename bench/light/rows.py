"""Rows of a step as the engine makes them: three to a stream, two with the same text, two with the same voice."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench import roofline
from bench.roofline import Cost
from echo.model.network.dit import EchoDiT
from echo.model.network.kv import KV, RowContext

#: Latents of a row, the first block of the released preset; keys of its text, prefix and voice (ten seconds).
_SIZE, _TEXT, _PREFIX, _VOICE = 32, 100, 8, 53


@dataclass(frozen=True, slots=True)
class Rows:
    """Arguments of ``EchoDiT.velocity``."""

    rows: list[Tensor]
    modulation: Tensor
    contexts: list[RowContext]
    starts: list[int]

    def velocity(self, dit: EchoDiT) -> list[Tensor]:
        """The step, captured if the transformer has captured steps."""
        with torch.inference_mode():
            return dit.velocity(self.rows, self.modulation, self.contexts, self.starts)

    def as_written(self, dit: EchoDiT) -> list[Tensor]:
        """The step row by row."""
        with torch.inference_mode():
            return dit.row_by_row(self.rows, self.modulation, self.contexts, self.starts)

    def cost(self, dit: EchoDiT) -> Cost:
        """The least that the step costs."""
        keys = [context.seen - _SIZE for context in self.contexts]
        return roofline.step(dit.config, _SIZE, keys, dit.dtype.itemsize)


@torch.inference_mode()
def random_rows(dit: EchoDiT, latents: int) -> Rows:
    """Rows of ``latents`` in all, a multiple of 32, with random keys."""
    draw = torch.Generator(dit.device).manual_seed(latents)

    def random_kv(keys: int) -> KV:
        # Drawn elsewhere, because what is drawn in place depends on how a tensor lies in memory.
        kv = dit.allocate(keys)
        return kv.copy_(torch.randn(kv.shape, generator=draw, device=dit.device))

    count = latents // _SIZE
    voice, contexts = random_kv(_VOICE), list[RowContext]()
    while len(contexts) < count:
        text, prefix = random_kv(_TEXT), random_kv(_PREFIX)
        contexts += dit.pack([[text, prefix], [prefix], [text, prefix]], _SIZE, [voice, voice, None])
    shape = (count, _SIZE, dit.config.latent_size)
    rows = list(torch.randn(shape, generator=draw, device=dit.device))
    return Rows(rows, dit.modulation([0.9] * count), contexts[:count], [_SIZE] * count)
