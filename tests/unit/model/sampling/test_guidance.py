from __future__ import annotations

import pytest
import torch

from echo.model.sampling.guidance import Branch, Conditions, combine
from echo.types import SamplerParams

TEXT, SPEAKER, LATENT = (torch.zeros(1, 2, 2, n, 4) for n in (5, 3, 2))


@pytest.mark.parametrize(
    ("text", "speaker", "expected"),
    [
        (3.0, 8.0, (Branch.COND, Branch.NO_TEXT, Branch.NO_SPEAKER)),
        (3.0, 0.0, (Branch.COND, Branch.NO_TEXT)),
        (0.0, 8.0, (Branch.COND, Branch.NO_SPEAKER)),
        (0.0, 0.0, (Branch.COND,)),
    ],
)
def test_a_scale_of_zero_runs_no_row(text: float, speaker: float, expected: tuple[Branch, ...]) -> None:
    params = SamplerParams(cfg_scale_text=text, cfg_scale_speaker=speaker)
    assert Conditions(text=TEXT, speaker=SPEAKER).branches(params) == expected


@pytest.mark.parametrize("speaker", [None, torch.zeros(1, 2, 2, 0, 4)])
def test_without_a_voice_there_is_no_row_without_it(speaker: torch.Tensor | None) -> None:
    branches = Conditions(text=TEXT, speaker=speaker).branches(SamplerParams())
    assert branches == (Branch.COND, Branch.NO_TEXT)


def test_what_each_row_sees_beside_the_speaker() -> None:
    conditions = Conditions(text=TEXT, speaker=SPEAKER)
    seen = {branch: conditions.sources(branch, LATENT) for branch in Branch}
    assert [id(kv) for kv in seen[Branch.COND]] == [id(TEXT), id(LATENT)]
    assert [id(kv) for kv in seen[Branch.NO_TEXT]] == [id(LATENT)]
    assert [id(kv) for kv in seen[Branch.NO_SPEAKER]] == [id(TEXT), id(LATENT)]


def test_independent_guidance() -> None:
    cond, no_text, no_speaker = (torch.tensor([value]) for value in (1.0, 2.0, 5.0))
    rows = {Branch.COND: cond, Branch.NO_TEXT: no_text, Branch.NO_SPEAKER: no_speaker}
    assert combine(rows, 3.0, 0.5).item() == 1 + 3.0 * (1 - 2) + 0.5 * (1 - 5)
    assert combine({Branch.COND: cond}, 3.0, 0.5).item() == 1
