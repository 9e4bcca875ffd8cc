from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from echo.model.network.dit import EchoDiT
from echo.model.sampling.sampler import sample_blockwise
from echo.types import BlockSpec, SamplerParams, TailRules
from tests.closeness import assert_close
from tests.reference.sampler import bos_conditions

CASES = json.loads((Path(__file__).parent / "vectors" / "sampler_stream_variant.json").read_text())


def per_block(value: Any, count: int) -> list[Any]:
    return value if isinstance(value, list) else [value] * count


@pytest.mark.parametrize("name", CASES)
def test_stream_variant(dit: EchoDiT, vectors: Any, name: str) -> None:
    recorded, values = vectors("sampler_stream_variant"), dict(CASES[name]["params"])
    assert CASES[name]["text_unconditional"] == "bos_only"
    sizes = values.pop("block_sizes")
    steps = per_block(values.pop("num_steps"), len(sizes))
    truncation = per_block(values.pop("truncation_factor"), len(sizes))
    init_scale = per_block(values.pop("init_scale", 0.999), len(sizes))
    blocks = [
        BlockSpec(size=size, steps=n, truncation=cut, init_scale=scale)
        for size, n, cut, scale in zip(sizes, steps, truncation, init_scale, strict=True)
    ]
    early_stop = None
    if values.pop("early_stop_on_zero", False):
        # Of the two conditions on the tail, the fraction is implied by the maximum.
        values.pop("zero_tail_min_frac")
        early_stop = TailRules(zero_eps=values.pop("zero_eps"), zero_tail_frames=values.pop("zero_tail_frames"))
    unused = torch.zeros(sizes[0], 80)
    out = sample_blockwise(
        dit,
        bos_conditions(
            dit,
            recorded["in.text_ids"][0][recorded["in.text_mask"][0]],
            dit.encode_speaker(recorded["in.speaker_latent"][0], int(recorded["in.speaker_mask"][0].sum())),
        ),
        blocks,
        SamplerParams(**values),
        [recorded.get(f"{name}.noise{i}", [unused])[0] for i in range(len(blocks))],
        early_stop=early_stop,
    )
    assert_close(out, recorded[f"{name}.out"][0], rtol=0, atol=5e-4)
