from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from echo.model.sampling.tail import flat_tail_start
from tests.reference.flattening import first_flat_window

CASES = json.loads((Path(__file__).parent / "vectors" / "flattening.json").read_text())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_end_detection(vectors: Any, case: dict[str, Any]) -> None:
    latents = vectors("flattening")[case["case"]]
    assert latents.shape[0] == case["length"]
    assert first_flat_window(latents) == case["forward_scan"]
    assert first_flat_window(latents, window=10, std=0.2) == case["forward_scan_w10_s02"]
    assert flat_tail_start(latents) == case["backward_scan"]
    assert flat_tail_start(latents, window=32, std=0.02) == case["backward_scan_w32_s002"]
