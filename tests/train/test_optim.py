"""Muon, the split of parameters, and the learning rate."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from train.tiny import optim


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 40), (2, 40, 8)])
def test_orthogonal_brings_singular_values_near_one_and_keeps_the_directions(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    near = optim.orthogonal(matrices)
    values = torch.linalg.svdvals(near)
    assert values.min() > 0.5
    assert values.max() < 1.4
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    exact = u @ v
    cosine = (near * exact).sum((1, 2)) / (near.norm(dim=(1, 2)) * exact.norm(dim=(1, 2)))
    assert cosine.min() > 0.95


def test_muon_steps_have_the_size_of_adamw_steps() -> None:
    parameter = nn.Parameter(torch.zeros(64, 64))
    muon = optim.Muon([parameter], lr=0.01)
    parameter.grad = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    muon.step()
    size = float(parameter.detach().square().mean().sqrt())
    assert 0.5 * 0.2 * 0.01 < size < 1.5 * 0.2 * 0.01


def test_muon_finds_a_matrix() -> None:
    generator = torch.Generator().manual_seed(0)
    wanted = torch.randn(12, 20, generator=generator) / 4
    parameter = nn.Parameter(torch.zeros(12, 20))
    muon = optim.Muon([parameter], lr=0.1)
    for step in range(150):
        muon.param_groups[0]["lr"] = 0.1 * optim.decay(step / 150)
        inputs = torch.randn(64, 20, generator=generator)
        (inputs @ (parameter - wanted).T).square().mean().backward()  # type: ignore[no-untyped-call]
        muon.step()
        muon.zero_grad()
    assert float((parameter - wanted).detach().norm() / wanted.norm()) < 0.1


def test_a_convolution_counts_as_a_matrix() -> None:
    parameter = nn.Parameter(torch.zeros(8, 4, 3))
    parameter.grad = torch.randn(8, 4, 3, generator=torch.Generator().manual_seed(0))
    optim.Muon([parameter], lr=0.1).step()
    assert torch.linalg.svdvals(parameter.detach().flatten(1)).min() > 0


def test_a_parameter_without_gradient_stays() -> None:
    parameter = nn.Parameter(torch.ones(4, 4))
    optim.Muon([parameter], lr=0.1, weight_decay=0.5).step()
    assert torch.equal(parameter, torch.ones(4, 4))


def test_matrices_go_to_muon_and_norms_and_biases_are_not_decayed() -> None:
    module = nn.ModuleDict({"inner": nn.Linear(4, 4), "outer": nn.Linear(4, 2), "norm": nn.LayerNorm(4)})
    muon, decayed, plain = optim.split_parameters(module, lambda name, _: name.startswith("inner"))
    names = {parameter: name for name, parameter in module.named_parameters()}
    assert [names[p] for p in muon] == ["inner.weight"]
    assert [names[p] for p in decayed] == ["outer.weight"]
    assert sorted(names[p] for p in plain) == ["inner.bias", "norm.bias", "norm.weight", "outer.bias"]


def test_the_rate_rises_and_then_falls_to_nothing() -> None:
    assert optim.warm_up(0, 10) == pytest.approx(0.1)
    assert optim.warm_up(50, 10) == 1.0
    shares = [optim.decay(p / 10) for p in range(11)]
    assert shares[0] == 1.0
    assert shares[-1] == 0.0
    assert shares == sorted(shares, reverse=True)


def test_set_rate_scales_every_groups_own_rate() -> None:
    module = nn.Linear(4, 4)
    optimizers = optim.make_optimizers(module, lambda name, p: p.dim() == 2, lr=0.1, muon_lr=0.3)
    optim.set_rate(optimizers.values(), 0.5)
    rates = {title: optimizer.param_groups[0]["lr"] for title, optimizer in optimizers.items()}
    assert rates == pytest.approx({"adamw": 0.05, "muon": 0.15})
