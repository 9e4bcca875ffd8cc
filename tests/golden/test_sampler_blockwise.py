from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from echo.model.network.dit import EchoDiT
from echo.model.sampling.sampler import make_conditions, sample_blockwise
from echo.types import BlockSpec, SamplerParams
from tests.closeness import assert_close
from tests.reference.sampler import sample_with_compounding

CASES = json.loads((Path(__file__).parent / "vectors" / "sampler_blockwise.json").read_text())


@pytest.mark.parametrize("name", CASES)
def test_blockwise(dit: EchoDiT, vectors: Any, name: str) -> None:
    recorded, case = vectors("sampler_blockwise"), CASES[name]
    values = dict(case["params"])
    sizes, steps, truncation = (values.pop(key) for key in ("block_sizes", "num_steps", "truncation_factor"))
    blocks = [BlockSpec(size=size, steps=steps, truncation=truncation) for size in sizes]
    for row in range(recorded[f"{name}.out"].shape[0]):
        ids = recorded["in.text_ids"][row][recorded["in.text_mask"][row]]
        valid = int(recorded["in.speaker_mask"][row].sum())
        conditions = make_conditions(dit, ids, dit.encode_speaker(recorded["in.speaker_latent"][row], valid))
        params, noises = SamplerParams(**values), [recorded[f"{name}.noise{i}"][row] for i in range(len(blocks))]
        if name == "kvscale_compounding":
            out = sample_with_compounding(dit, conditions, blocks, params, noises)
        else:
            continuation = recorded[case["continuation"]][row] if case["continuation"] else None
            out = sample_blockwise(dit, conditions, blocks, params, noises, continuation=continuation)
        assert_close(out, recorded[f"{name}.out"][row], rtol=0, atol=5e-4)


def test_scale_does_not_compound_by_default(dit: EchoDiT, vectors: Any) -> None:
    recorded, name = vectors("sampler_blockwise"), "kvscale_compounding"
    values = dict(CASES[name]["params"])
    sizes, steps, truncation = (values.pop(key) for key in ("block_sizes", "num_steps", "truncation_factor"))
    ids = recorded["in.text_ids"][0][recorded["in.text_mask"][0]]
    out = sample_blockwise(
        dit,
        make_conditions(dit, ids, dit.encode_speaker(recorded["in.speaker_latent"][0])),
        [BlockSpec(size=size, steps=steps, truncation=truncation) for size in sizes],
        SamplerParams(**values),
        [recorded[f"{name}.noise{i}"][0] for i in range(len(sizes))],
    )
    expected = recorded[f"{name}.out"][0]
    assert_close(out[: sizes[0]], expected[: sizes[0]], rtol=0, atol=5e-4)
    assert (out[sizes[0] :] - expected[sizes[0] :]).abs().max() > 0.01
