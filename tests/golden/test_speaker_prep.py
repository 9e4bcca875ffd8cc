from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from echo.errors import BadRequest
from echo.model.autoencoder import Autoencoder
from echo.model.autoencoder.pca import Pca
from echo.model.autoencoder.speaker import speaker_latents
from echo.types import SAMPLES_PER_LATENT
from tests.closeness import assert_close
from tests.reference.speaker import padded_speaker_latents

TOLERANCE = 1e-4
CASES: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "speaker_prep.json").read_text())
NON_EMPTY = [case for case, given in CASES.items() if given["mask_true"]]


@pytest.fixture(scope="module")
def recorded(vectors: Any) -> dict[str, Tensor]:
    loaded: dict[str, Tensor] = vectors("speaker_prep")
    return loaded


def audio_of(recorded: dict[str, Tensor], case: str) -> Tensor:
    given = CASES[case]
    return recorded[given.get("audio", "audio_int16")][0, : given["samples"]].float() / 32_768


def options_of(case: str) -> dict[str, Any]:
    """The recorded keyword arguments under our names."""
    kwargs = CASES[case]["kwargs"]
    options: dict[str, Any] = {}
    if "audio_chunk_size" in kwargs:
        options["chunk_latents"] = kwargs["audio_chunk_size"] // SAMPLES_PER_LATENT
    if "max_speaker_latent_length" in kwargs:
        options["max_latents"] = kwargs["max_speaker_latent_length"]
    if "divis_by_patch_size" in kwargs:
        options["divis"] = kwargs["divis_by_patch_size"]
    return options


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_with_the_references_padding(
    autoencoder: Autoencoder, pca: Pca, recorded: dict[str, Tensor], case: str
) -> None:
    pad_to_max = CASES[case]["kwargs"].get("pad_to_max", False)
    result = padded_speaker_latents(
        autoencoder, pca, audio_of(recorded, case), pad_to_max=pad_to_max, **options_of(case)
    )
    assert_close(result.latents, recorded[f"{case}.latent"][0], rtol=0, atol=TOLERANCE)
    assert torch.equal(result.mask, recorded[f"{case}.mask"][0])


@pytest.mark.slow
@pytest.mark.parametrize("case", NON_EMPTY)
def test_without_padding_the_valid_latents_are_the_same(
    autoencoder: Autoencoder, pca: Pca, recorded: dict[str, Tensor], case: str
) -> None:
    latents, valid = speaker_latents(autoencoder, pca, audio_of(recorded, case), **options_of(case))
    assert valid == len(latents) == CASES[case]["mask_true"] // 4 * 4 or case == "no_divis"
    assert_close(latents, recorded[f"{case}.latent"][0, :valid], rtol=0, atol=TOLERANCE)


def test_audio_below_one_patch_is_refused_and_told_what_is_needed(
    autoencoder: Autoencoder, pca: Pca, recorded: dict[str, Tensor]
) -> None:
    with pytest.raises(BadRequest, match=r"too short: 139 ms; at least 186 ms") as refusal:
        speaker_latents(autoencoder, pca, audio_of(recorded, "below_one_patch"))
    assert refusal.value.param == "voice"
