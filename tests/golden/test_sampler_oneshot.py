from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from echo.model.network.dit import EchoDiT
from echo.model.sampling.sampler import make_conditions, sample_oneshot
from echo.types import BlockSpec, SamplerParams
from tests.closeness import assert_close

CASES = json.loads((Path(__file__).parent / "vectors" / "sampler_oneshot.json").read_text())


@pytest.mark.parametrize("name", CASES)
def test_oneshot(dit: EchoDiT, vectors: Any, name: str) -> None:
    recorded, values = vectors("sampler_oneshot"), dict(CASES[name]["params"])
    spec = BlockSpec(
        size=values.pop("sequence_length"), steps=values.pop("num_steps"), truncation=values.pop("truncation_factor")
    )
    params = SamplerParams(**values)
    for row, noise in enumerate(recorded[f"{name}.noise"]):
        ids = recorded["in.text_ids"][row][recorded["in.text_mask"][row]]
        valid = 0 if name == "no_speaker" else int(recorded["in.speaker_mask"][row].sum())
        conditions = make_conditions(dit, ids, dit.encode_speaker(recorded["in.speaker_latent"][row], valid))
        out = sample_oneshot(dit, conditions, spec, params, noise)
        assert_close(out, recorded[f"{name}.out"][row], rtol=0, atol=5e-4)
