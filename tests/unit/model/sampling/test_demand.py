"""The estimated demand of an utterance, against what it then takes."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from echo.model.echo import EchoModel, EchoVoice
from echo.model.files.weights import LoadedEcho
from echo.model.network.config import ECHO_TTS_BASE
from echo.model.sampling.demand import estimate_demand
from echo.types import BlockPlan, BlockSpec, SamplerParams, TailRules, Utterance
from tests.unit.small_echo import small_autoencoder, small_dit, small_pca

LOOSE = TailRules(early_stop_on_zero=False)


def fresh() -> EchoModel:
    """A model that has decoded nothing yet."""
    parts = LoadedEcho(small_dit(torch.float32), small_autoencoder(), small_pca(), {})
    return EchoModel(parts, lambda text: list(text.encode()), max_speaker_latents=640, resident_bytes=2**30)


@pytest.fixture(scope="module")
def model() -> EchoModel:
    return fresh()


@pytest.fixture(scope="module")
def voice(model: EchoModel) -> EchoVoice:
    return model.encode_voice(np.random.default_rng(0).standard_normal(2048 * 24).astype(np.float32) * 0.1)


def plan(*blocks: tuple[int, int], tail: TailRules = LOOSE, **params: Any) -> BlockPlan:
    specs = tuple(BlockSpec(size=size, steps=steps) for size, steps in blocks)
    return BlockPlan(blocks=specs, params=SamplerParams(**params), tail=tail)


def held(*values: Any) -> int:
    """Return the bytes of memory behind the tensors, each piece of memory once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for v in values for t in tensors_in(v)}
    return sum(storages.values())


def tensors_in(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if hasattr(value, "__dataclass_fields__"):
        return [t for f in fields(value) for t in tensors_in(getattr(value, f.name))]
    return []


plans = st.builds(
    lambda blocks, **params: plan(*blocks, **params),
    st.lists(st.tuples(st.sampled_from([4, 7, 16]), st.integers(1, 3)), min_size=1, max_size=3),
    cfg_scale_text=st.sampled_from([0.0, 2.0]),
    cfg_scale_speaker=st.sampled_from([0.0, 2.0]),
    cfg_min_t=st.sampled_from([0.0, 0.5, 2.0]),
    speaker_kv_scale=st.sampled_from([None, 1.5]),
)


@given(plan=plans, text=st.text(min_size=1, max_size=20), spoken_with=st.booleans())
@settings(max_examples=25, deadline=None, derandomize=True)
@torch.inference_mode()
def test_an_utterance_takes_the_estimated_work_and_no_more_memory(
    plan: BlockPlan, text: str, spoken_with: bool, model: EchoModel, voice: EchoVoice
) -> None:
    wanted = Utterance(text=text, plan=plan, seed=1, voice=voice if spoken_with else None)
    tokens = model.tokenize(text)
    demand = model.demand(wanted, tokens)
    conditions, prefix = model.conditions(tokens, wanted.voice), model.empty_prefix()
    work, largest = 0, 0
    for number, spec in enumerate(plan.blocks):
        sampler = model.sampler(conditions, prefix, spec, plan.params, (1, 0, number, 0))
        while not sampler.done:
            largest = max(largest, held(conditions, prefix, *sampler._contexts))
            work += sampler.next_rows * spec.size
            model.step([sampler])
        prefix = model.extend(prefix, sampler.latents)
    assert demand.work == work
    assert 0.3 * demand.nbytes < largest <= demand.nbytes


def test_work_is_estimated_for_the_blocks_that_the_speech_probably_fills() -> None:
    def work(estimate_s: float | None, **tail: Any) -> float:
        wanted = plan((32, 1), (64, 1), (96, 1), tail=TailRules(**tail), cfg_min_t=2.0)
        sizes = {"itemsize": 4, "text_keys": 10, "speaker_keys": 0, "decode_bytes": 0}
        return estimate_demand(ECHO_TTS_BASE, wanted, **sizes, estimate_s=estimate_s).work

    assert work(1.0) == 32
    assert work(2.0) == 96
    assert work(100.0) == work(None) == 192
    assert work(1.0, early_stop_on_zero=False) == 192


def test_memory_grows_with_voice_text_blocks_and_guidance() -> None:
    base = {"itemsize": 2, "text_keys": 100, "speaker_keys": 53, "decode_bytes": 0}
    default = plan((32, 8), (128, 15), (480, 20))
    plain = estimate_demand(ECHO_TTS_BASE, default, **base).nbytes
    assert 0.3e9 < plain < 0.6e9  # two copies of the context of the last block, with room for 480 keys on each side
    for more in ({"text_keys": 700}, {"speaker_keys": 1600}, {"itemsize": 4}, {"decode_bytes": 9_000_000}):
        assert estimate_demand(ECHO_TTS_BASE, default, **{**base, **more}).nbytes > plain
    assert estimate_demand(ECHO_TTS_BASE, plan((32, 8)), **base).nbytes < plain / 5
    unguided = replace(default, params=SamplerParams(cfg_scale_text=0.0, cfg_scale_speaker=0.0))
    assert estimate_demand(ECHO_TTS_BASE, unguided, **base).nbytes < plain
    forced = replace(default, params=SamplerParams(speaker_kv_scale=1.5))
    assert estimate_demand(ECHO_TTS_BASE, forced, **base).nbytes - plain == 53 * 192 * 1024


def test_what_the_decoder_remembers_counts_from_the_first_decode_on() -> None:
    model = fresh()
    wanted = Utterance(text="hi", plan=plan((4, 1)), seed=1)
    tokens = model.tokenize("hi")
    before = model.demand(wanted, tokens)
    [(_, state)] = model.decode([None], [torch.zeros(3, 80)])()
    assert model.demand(wanted, tokens).nbytes == before.nbytes + state.nbytes
