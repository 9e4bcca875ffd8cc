"""The corpus's latents as the transformer makes them, on the teacher's own time line.

A decoder that has only met exact latents is rough with a transformer's. So every utterance is disturbed part of the way
to noise, and the transformer leads it back: its manner comes in, while what is said when stays, and with it the
teacher's samples as what the decoder should make of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from train.tiny import state
from train.tiny.codec_data import Material
from train.tiny.dit_batches import Batches, Targets
from train.tiny.dit_data import Utterances
from train.tiny.dit_model import Inputs, TrainableDiT
from train.tiny.precision import precision
from train.tiny.speak import PARAMS

#: Least and largest flow time that utterances are disturbed to: further up the transformer would say it another way.
LEVEL = (0.3, 0.6)
_STEPS = 4
#: About how many latents are led back together.
_FRAMES = 2048
#: Latents per tensor of a file.
_PART = 50_000


def remade(
    model: TrainableDiT,
    batches: Batches,
    utterances: Utterances,
    material: Material,
    keys: Sequence[str],
    folder: Path,
    *,
    step: int,
    seed: int,
    progress: Callable[[int, int], object] | None = None,
) -> Material:
    """The same material with the transformer's latents, where ``batches`` draws from a recording.

    keys    of the recordings, in the order in which they lie in ``material``
    folder  what was made once is kept in, and read again as long as it is of this ``step`` and of this material

    Raises KeyError for a recording that ``utterances`` does not have.
    """
    facts = {"step": step, "recordings": len(keys), "latents": len(material.latents)}
    known = state.load(folder)
    if known is None or known[1] != facts:
        number = {key: row for row, key in enumerate(utterances.keys)}
        rows = [number[key] for key in keys]
        made = remake(model, batches, rows, seed=seed, progress=progress)
        latents = _aligned(material, [(int(batches.lengths[row]), made.get(row)) for row in rows])
        parts = {f"{place:04d}": part.clone() for place, part in enumerate(torch.split(latents, _PART))}
        state.save(folder, parts, facts)
    else:
        latents = torch.cat([known[0][name] for name in sorted(known[0])])
    return replace(material, latents=latents.to(material.latents))


@torch.no_grad()
def remake(
    model: TrainableDiT,
    batches: Batches,
    rows: Sequence[int],
    *,
    seed: int,
    progress: Callable[[int, int], object] | None = None,
) -> dict[int, Tensor]:
    """Latents ``[n, 80]`` f16 of utterances by their number; of those that ``batches`` draws from.

    rows      numbers of utterances; those of speakers that are not trained on are left out
    progress  called with how many are done, and with how many there are
    """
    length = batches.lengths
    todo = sorted(set(rows) & set(batches.rows), key=lambda row: int(length[row]))
    made: dict[int, Tensor] = {}
    while len(made) < len(todo):
        first = len(made)
        fitting = max(1, _FRAMES // int(length[todo[first]]))
        chosen = todo[first : first + fitting]
        inputs, targets = batches.whole(chosen, int(length[chosen[-1]]), seed=seed + first)
        with precision(batches.device):
            found = _led_back(model, inputs, targets, torch.Generator().manual_seed(seed + first))
        for place, row in enumerate(chosen):
            made[row] = found[place, : int(length[row])].half().cpu()
        if progress is not None:
            progress(len(made), len(todo))
    return made


def _aligned(material: Material, recordings: Sequence[tuple[int, Tensor | None]]) -> Tensor:
    """The material's latents with others where there are some; for every recording its length and those."""
    latents = material.latents.cpu().clone()
    begin = 0
    for length, made in recordings:
        if made is not None:
            latents[begin : begin + length] = made
        begin += Material.room(length)
    return latents


def _led_back(model: TrainableDiT, inputs: Inputs, targets: Targets, generator: torch.Generator) -> Tensor:
    """Disturb whole utterances to a level drawn for each, and sample from there, guided as the server does."""
    clean = inputs.x - inputs.t[:, None, None] * targets.velocity
    low, high = LEVEL
    level = (low + (high - low) * torch.rand(len(clean), generator=generator)).to(clean.device)
    x = clean + level[:, None, None] * targets.velocity
    no_text = torch.zeros_like(inputs.text_mask)
    for step in range(_STEPS):
        now = replace(inputs, x=x, t=level * (1 - step / _STEPS))
        velocity = model(now).velocity
        velocity = velocity + PARAMS.cfg_scale_text * (velocity - model(replace(now, text_mask=no_text)).velocity)
        x = x - (level / _STEPS)[:, None, None] * velocity
    return x
