"""The streaming variant's loop through our own job: blocks in, 16-bit samples out as each is finished."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from echo.audio.pcm import to_s16
from echo.model.autoencoder import Autoencoder
from echo.model.autoencoder.pca import Pca
from echo.model.autoencoder.streaming import StreamingDecoder
from echo.model.network.dit import EchoDiT
from echo.model.network.modulation import ModulationCache
from echo.model.sampling.prefix import Prefix
from echo.model.sampling.sampler import BlockSampler
from echo.model.sampling.tail import ends_in_silence, flat_tail_start
from echo.text.tokenize import encode
from echo.types import INIT_SCALE, BlockSpec, SamplerParams, TailRules
from tests.reference.sampler import bos_conditions
from tests.reference.streaming_text import preprocess_for_stream

CASES: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "stream_loop.json").read_text())


def per_block(value: Any, count: int, default: Any) -> list[Any]:
    return value if isinstance(value, list) else [default if value is None else value] * count


@pytest.mark.parametrize("name", CASES)
def test_blocks_become_pcm(name: str, dit: EchoDiT, autoencoder: Autoencoder, pca: Pca, vectors: Any) -> None:
    case, recorded = CASES[name], vectors("stream_loop")
    values = case["params"]
    text = preprocess_for_stream(case["text"])
    assert text == case["preprocessed"]
    sizes = values["block_sizes"]
    count = len(sizes)
    cuts, scales = (
        per_block(values["truncation_factor"], count, None),
        per_block(values["init_scale"], count, INIT_SCALE),
    )
    specs = [
        BlockSpec(size=size, steps=steps, truncation=cut, init_scale=scale)
        for size, steps, cut, scale in zip(sizes, values["num_steps"], cuts, scales, strict=True)
    ]
    names = SamplerParams.__dataclass_fields__
    params = replace(SamplerParams(), **{key: value for key, value in values.items() if key in names})
    tail = TailRules(zero_eps=values["zero_eps"], zero_tail_frames=values["zero_tail_frames"])
    speaker = dit.encode_speaker(recorded["speaker_latent"][0], int(recorded["speaker_mask"][0].sum()))
    conditions = bos_conditions(dit, torch.tensor(encode(text)), speaker)
    tables, prefix, decoder = ModulationCache(dit.modulation), Prefix(dit), StreamingDecoder(autoencoder, pca)
    state, spoken, sent = decoder.start(), torch.zeros(0, 80), []
    for i, spec in enumerate(specs):
        sampler = BlockSampler(dit, conditions, prefix, spec, params, recorded[f"{name}.noise{i}"][0], tables=tables)
        while not sampler.done:
            sampler.step()
        emitted = len(spoken)
        spoken = torch.cat((spoken, sampler.latents))
        finishing = i + 1 == count or ends_in_silence(sampler.latents, tail)
        end = max(emitted, flat_tail_start(spoken, 32, 0.02)) if finishing else len(spoken)
        samples, state = decoder.decode(state, spoken[emitted:end])
        sent.append(to_s16(samples))
        if finishing:
            break
        prefix = prefix.append(sampler.latents)
    assert [len(pcm) for pcm in sent] == case["samples_per_block"]
    for i, pcm in enumerate(sent):
        expected = recorded[f"{name}.pcm{i}"].numpy().astype(np.int32)
        assert np.abs(pcm.astype(np.int32) - expected).max() <= 33  # 1e-3 of full scale
