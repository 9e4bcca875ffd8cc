"""How many operations and allocations the embedded model takes on a CPU: each costs more than its arithmetic there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from echo.engines.load import load_weights
from echo.model.echo import EchoModel
from echo.model.sampling.guidance import Conditions
from echo.settings import load_settings
from echo.sources import TINY_MODEL
from echo.text.tokenize import encode_sentence
from echo.types import BlockSpec, SamplerParams

pytestmark = pytest.mark.slow

TEXT = "The train to the coast leaves from the second platform in a quarter of an hour."
#: The first block of the embedded model's default preset.
BLOCK = BlockSpec(size=28, steps=8)
#: Operators that compute nothing: they make or look at tensors.
_FREE = frozenset(
    {"empty", "empty_like", "empty_strided", "new_empty", "detach", "detach_", "alias", "lift_fresh", "unbind", "chunk"}
)


@dataclass
class Operations(TorchDispatchMode):
    """Counts operators that compute, and the tensors that they make."""

    by_name: Counter[str] = field(default_factory=Counter)
    tensors: int = 0
    nbytes: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        if func.is_view or name in _FREE:
            return result
        self.by_name[name] += 1
        for each in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(each, Tensor) and not name.endswith("_"):
                self.tensors += 1
                self.nbytes += each.untyped_storage().nbytes()
        return result


@contextmanager
def at_most(operations: int, *, mib: float) -> Iterator[None]:
    """Assert that no more is done and allocated inside, and not far less: the bounds would then guard nothing."""
    with torch.inference_mode(), Operations() as found:
        yield
    count = found.by_name.total()
    assert 0.9 * operations <= count <= operations, f"{count} operations: {found.by_name.most_common(12)}"
    assert 0.9 * mib <= found.nbytes / 2**20 <= mib, f"{found.nbytes / 2**20:.1f} MiB in {found.tensors} tensors"


@pytest.fixture(scope="module")
def model() -> EchoModel:
    settings = load_settings({}, model_repo=TINY_MODEL, device="cpu", model_dtype="float32")
    return EchoModel(load_weights(settings), encode_sentence, max_speaker_latents=6400)


@pytest.fixture(scope="module")
def conditions(model: EchoModel) -> Conditions:
    """Of a text and a voice of four seconds; the model is warm afterwards."""
    clip = np.sin(np.arange(4 * 44_100, dtype=np.float32) / 30)
    with torch.inference_mode():
        work = model.encode_voice_in_slices(clip)
        while True:
            try:
                next(work)
            except StopIteration as end:
                found = model.conditions(model.tokenize(TEXT), end.value)
                break
        sampler = model.sampler(found, model.empty_prefix(), BLOCK, SamplerParams(), (0, 0, 0, 0))
        model.step([sampler])
        model.extend(model.empty_prefix(), sampler.latents)
    return found


def test_a_text(model: EchoModel, conditions: Conditions) -> None:
    with at_most(145, mib=15.5):
        model.conditions(model.tokenize(TEXT), None)


@pytest.mark.parametrize(("guidance", "operations", "mib"), [(3.0, 360, 26.0), (0.0, 262, 9.0)])
def test_a_step_of_three_rows_and_of_one(
    model: EchoModel, conditions: Conditions, guidance: float, operations: int, mib: float
) -> None:
    params = SamplerParams(cfg_scale_text=guidance, cfg_scale_speaker=guidance)
    with torch.inference_mode():
        sampler = model.sampler(conditions, model.empty_prefix(), BLOCK, params, (0, 0, 0, 0))
    with at_most(operations, mib=mib):
        model.step([sampler])


def test_the_prefix_of_the_next_block(model: EchoModel, conditions: Conditions) -> None:
    latents = torch.randn(BLOCK.size, 80)
    with torch.inference_mode():
        prefix = model.extend(model.empty_prefix(), latents)
    with at_most(126, mib=1.15):
        model.extend(prefix, latents)


def test_a_block_is_decoded_with_few_passes_over_its_samples(model: EchoModel) -> None:
    latents = torch.randn(BLOCK.size, 80)
    with torch.inference_mode():
        state = model.decode([None], [latents])()[0][1]
    with at_most(200, mib=30):
        model.decode([state], [latents])()
