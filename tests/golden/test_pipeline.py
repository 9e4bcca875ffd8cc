"""Text and a reference clip in, cropped audio out, as the reference pipeline makes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from echo.model.autoencoder import Autoencoder
from echo.model.autoencoder.pca import Pca
from echo.model.autoencoder.speaker import speaker_latents
from echo.model.autoencoder.streaming import StreamingDecoder
from echo.model.network.dit import EchoDiT
from echo.model.network.kv import KV
from echo.model.sampling.sampler import make_conditions, sample_blockwise
from echo.text.tokenize import encode, normalize
from echo.types import BlockSpec, SamplerParams
from tests.closeness import assert_close
from tests.reference.flattening import first_flat_window
from tests.reference.speaker import padded_speaker_latents

CASES: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "pipeline.json").read_text())


def speaker(dit: EchoDiT, autoencoder: Autoencoder, pca: Pca, clip: Tensor, pad_to: int | None) -> KV:
    if pad_to is None:
        return dit.encode_speaker(*speaker_latents(autoencoder, pca, clip))
    return dit.encode_speaker(*padded_speaker_latents(autoencoder, pca, clip, max_latents=pad_to, pad_to_max=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_text_to_cropped_audio(name: str, dit: EchoDiT, autoencoder: Autoencoder, pca: Pca, vectors: Any) -> None:
    case, recorded = CASES[name], vectors("pipeline")
    values = dict(case["params"])
    assert normalize(case["text"]) == case["normalized_text"]
    steps = values.pop("num_steps")
    length = values.pop("sequence_length", None)
    sizes = values.pop("block_sizes", None) or [length]
    truncation = values.pop("truncation_factor")
    clip = recorded["speaker_audio_int16"][0].float() / 32768
    pad_to = case["pipeline_kwargs"].get("pad_to_max_speaker_latent_length")
    latents = sample_blockwise(
        dit,
        make_conditions(
            dit,
            torch.tensor(encode(case["text"])),
            speaker(dit, autoencoder, pca, clip, pad_to) if case["speaker"] else None,
        ),
        [BlockSpec(size=size, steps=steps, truncation=truncation) for size in sizes],
        SamplerParams(**values),
        [recorded[f"{name}.noise{i}"][0] for i in range(len(sizes))],
    )
    decoder = StreamingDecoder(autoencoder, pca)
    samples, _ = decoder.decode(decoder.start(), latents[: first_flat_window(latents)])
    expected = recorded[f"{name}.audio"].flatten()
    assert len(samples) == case["samples"] == len(expected)
    assert_close(torch.from_numpy(samples), expected, rtol=0, atol=1e-3)
