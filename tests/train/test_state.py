"""Checkpoints of a run: complete or not there, in small files, with the optimisers' memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from train.tiny import optim, state


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    tensors = {"a/weight": torch.randn(3, 4), "b": torch.arange(5), "scalar": torch.tensor(2.0)}
    state.save(tmp_path / "point", tensors, {"step": 7})
    loaded = state.load(tmp_path / "point")
    assert loaded is not None
    assert loaded[1] == {"step": 7}
    assert loaded[0].keys() == tensors.keys()
    assert all(torch.equal(loaded[0][key], tensors[key]) for key in tensors)


def test_nothing_is_loaded_where_nothing_was_saved(tmp_path: Path) -> None:
    assert state.load(tmp_path / "point") is None


def test_no_file_is_larger_than_a_part(tmp_path: Path) -> None:
    tensors = {f"t{i}": torch.zeros(1_500_000) for i in range(8)}  # 6 MB each
    state.save(tmp_path / "point", tensors, {})
    sizes = [path.stat().st_size for path in (tmp_path / "point").iterdir()]
    assert max(sizes) <= state.PART_BYTES
    loaded = state.load(tmp_path / "point")
    assert loaded is not None
    assert sorted(loaded[0]) == sorted(tensors)


def test_a_tensor_that_fits_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="huge"):
        state.save(tmp_path / "point", {"huge": torch.zeros(5_000_000)}, {})


def test_a_later_checkpoint_replaces_the_former(tmp_path: Path) -> None:
    state.save(tmp_path / "point", {"a": torch.zeros(1), "gone": torch.zeros(1)}, {"step": 1})
    state.save(tmp_path / "point", {"a": torch.ones(1)}, {"step": 2})
    loaded = state.load(tmp_path / "point")
    assert loaded is not None
    assert loaded[1] == {"step": 2}
    assert list(loaded[0]) == ["a"]
    assert [path.name for path in tmp_path.iterdir()] == ["point"]


@pytest.mark.parametrize("kept", ["point.old", "point.new"])
def test_a_run_killed_while_saving_has_a_complete_checkpoint(tmp_path: Path, kept: str) -> None:
    state.save(tmp_path / "point", {"a": torch.ones(1)}, {"step": 3})
    (tmp_path / "point").rename(tmp_path / kept)
    loaded = state.load(tmp_path / "point")
    assert loaded is not None
    assert loaded[1] == {"step": 3}


def trained(steps: int, resume_at: int | None, folder: Path) -> Tensor:
    """Weights after some steps, with or without saving and starting anew in between."""

    def fresh() -> tuple[nn.Module, dict[str, torch.optim.Optimizer]]:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))
        return module, optim.make_optimizers(module, lambda name, p: name == "0.weight", lr=0.05)

    module, optimizers = fresh()
    for step in range(steps):
        if step == resume_at:
            tensors = state.prefixed("model", module.state_dict()) | state.optimizer_tensors(module, optimizers)
            state.save(folder, tensors, {})
            found = state.load(folder)
            assert found is not None
            module, optimizers = fresh()
            module.load_state_dict(state.under("model", found[0]))
            state.restore_optimizers(module, optimizers, found[0])
        inputs = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
        module(inputs).square().mean().backward()
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad()
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def test_resumed_training_ends_where_unbroken_training_does(tmp_path: Path) -> None:
    assert torch.equal(trained(6, None, tmp_path / "x"), trained(6, 3, tmp_path / "x"))
