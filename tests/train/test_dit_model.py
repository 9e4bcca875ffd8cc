"""The training forward is the server's model: same weights, same numbers, over padded batches."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from echo.model.network.config import DiTConfig
from echo.model.network.dit import EchoDiT
from echo.model.sampling.prefix import Prefix
from tests.closeness import assert_close
from train.tiny.dit import DiTOptions, Trainable
from train.tiny.dit_model import Inputs, TrainableDiT

SMALL = DiTConfig(
    latent_size=80,
    model_size=48,
    num_layers=3,
    num_heads=3,
    intermediate_size=64,
    norm_eps=1e-5,
    text_vocab_size=256,
    text_model_size=32,
    text_num_layers=2,
    text_num_heads=2,
    text_intermediate_size=48,
    speaker_patch_size=4,
    speaker_model_size=32,
    speaker_num_layers=2,
    speaker_num_heads=2,
    speaker_intermediate_size=48,
    timestep_embed_size=32,
    adaln_rank=8,
)


@pytest.fixture
def trained() -> TrainableDiT:
    torch.manual_seed(0)
    dit = Trainable(SMALL, DiTOptions()).dit
    for parameter in dit.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    return dit.requires_grad_(False)


@pytest.fixture
def served(trained: TrainableDiT) -> EchoDiT:
    dit = EchoDiT(SMALL)
    dit.load_state_dict(trained.state_dict())
    return dit.eval()


def batch(rows: int = 3, size: int = 10, *, starts: tuple[int, ...] = (0, 8, 4)) -> Inputs:
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    prefix = normal(rows, max(starts) // 4, 320)
    patches = torch.arange(max(starts) // 4)
    return Inputs(
        x=normal(rows, size, 80),
        t=torch.tensor([0.9, 0.5, 0.1])[:rows],
        start=torch.tensor(starts),
        ids=torch.randint(1, 256, (rows, 12), generator=generator),
        text_mask=torch.arange(12) < torch.tensor([[12], [7], [9]])[:rows],
        speaker=normal(rows, 5, 320),
        speaker_mask=torch.arange(5) < torch.tensor([[3], [5], [0]])[:rows],
        prefix=prefix,
        prefix_mask=patches * 4 < torch.tensor(starts)[:, None],
    )


def served_velocity(dit: EchoDiT, inputs: Inputs, row: int) -> Tensor:
    """One row through the server's own path: no padding, no masks."""
    start = int(inputs.start[row])
    sources = [dit.encode_text(inputs.ids[row][inputs.text_mask[row]])]
    if start:
        assert inputs.prefix is not None
        kv = Prefix(dit).append(inputs.prefix[row].reshape(-1, 80)[:start]).kv
        assert kv is not None
        sources.append(kv)
    if seen := int(inputs.speaker_mask[row].sum()):
        sources.append(dit.encode_speaker(inputs.speaker[row, :seen].reshape(-1, 80)))
    x = inputs.x[row : row + 1]
    with torch.inference_mode():
        return dit.velocity(x, dit.modulation([float(inputs.t[row])]), dit.pack([sources], x.shape[1]), [start])[0]


@pytest.mark.parametrize("row", [0, 1, 2])
def test_every_row_of_a_batch_has_the_velocity_that_the_server_computes_for_it(
    trained: TrainableDiT, served: EchoDiT, row: int
) -> None:
    inputs = batch()
    mine = trained(inputs).velocity[row]
    theirs = served_velocity(served, inputs, row)
    assert theirs.std() > 0.1
    assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_a_batch_from_the_beginning_needs_no_prefix(trained: TrainableDiT, served: EchoDiT) -> None:
    inputs = replace(batch(starts=(0, 0, 0)), prefix=None, prefix_mask=None)
    assert_close(trained(inputs).velocity[1], served_velocity(served, inputs, 1), rtol=1e-4, atol=1e-4)


def test_what_is_masked_changes_nothing(trained: TrainableDiT) -> None:
    inputs = batch()
    assert inputs.prefix is not None
    assert inputs.prefix_mask is not None
    other = replace(
        inputs,
        ids=torch.where(inputs.text_mask, inputs.ids, 7),
        speaker=torch.where(inputs.speaker_mask[..., None], inputs.speaker, 3.0),
        prefix=torch.where(inputs.prefix_mask[..., None], inputs.prefix, -2.0),
    )
    assert_close(trained(inputs).velocity, trained(other).velocity)


def test_the_parameters_are_the_checkpoints(trained: TrainableDiT, served: EchoDiT) -> None:
    shapes = {name: tensor.shape for name, tensor in trained.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in served.state_dict().items()}


def test_every_parameter_learns_from_a_batch_with_a_prefix() -> None:
    torch.manual_seed(0)
    dit = Trainable(SMALL, DiTOptions()).dit
    for parameter in dit.parameters():  # fresh weights hold branches shut with zeros
        parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    dit(batch()).velocity.square().mean().backward()
    silent = [name for name, parameter in dit.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert silent == []
