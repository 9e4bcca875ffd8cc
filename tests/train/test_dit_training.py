"""The DiT's training: its losses fall, it can be stopped at any step, and the auxiliary losses mean what they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from train.tiny.budget import Budget
from train.tiny.dit import DiTOptions, DiTTask, Trainable, is_matrix, train_dit
from train.tiny.dit_batches import Batches, BatchOptions, References
from train.tiny.dit_data import Utterances
from train.tiny.dit_losses import LossWeights, attention, total, weighted_mean
from train.tiny.latents import Analysis
from train.tiny.loop import Stage
from train.tiny.plots import read_curve

from .small_speech import gathered, two_speakers
from .test_dit_model import SMALL

CPU = torch.device("cpu")
OPTIONS = DiTOptions(
    alignment_layers=(1,),
    phone_layer=1,
    lr=5e-3,
    muon_lr=5e-3,
    warm_up=2,
    log_steps=2,
    bf16=False,
    batches=BatchOptions(frames=128, buckets=(32,), crop_lengths=(16,), reference=(8, 12)),
)


@pytest.fixture(scope="module")
def utterances() -> Utterances:
    texts = ("mama, oso.", "seso mo.", "amisi eso.", "o mi.", "sasa mimi oso.")
    recordings = two_speakers(texts)
    return gathered(recordings, Analysis.fit(recordings), texts[-1])


def made(utterances: Utterances, options: DiTOptions = OPTIONS) -> DiTTask:
    return DiTTask(SMALL, options, utterances, seed=1, device=CPU)


def trained(task: DiTTask, folder: Path, steps: int) -> DiTTask:
    train_dit(task, OPTIONS, folder, Budget(steps=steps), show_progress=False)
    return task


def weights(task: DiTTask) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in task.dit.parameters()])


def test_losses_fall_on_held_out_speech_too(utterances: Utterances, tmp_path: Path) -> None:
    task = made(utterances)
    before = task.measure(tmp_path)
    trained(task, tmp_path, 30)
    after = task.measure(tmp_path)
    assert after["held_out_flow"] < 0.95 * before["held_out_flow"]
    assert after["held_out_attention"] < before["held_out_attention"]
    assert after["held_out_ctc"] < before["held_out_ctc"]
    *rows, measured = read_curve(tmp_path / "curves.jsonl")
    assert [row["step"] for row in rows] == list(range(2, 31, 2))
    assert rows[-1]["ctc"] < rows[0]["ctc"]
    assert rows[-1]["time"] < rows[0]["time"]
    assert measured["held_out_aligned"] == pytest.approx(after["held_out_aligned"], abs=1e-3)
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_a_run_that_was_stopped_ends_where_an_unbroken_one_does(utterances: Utterances, tmp_path: Path) -> None:
    whole = trained(made(utterances), tmp_path / "whole", 6)

    class Stopped(Exception):
        """As pressing Ctrl-C."""

    class Broken(DiTTask):
        def step(self, number: int, progress: float) -> dict[str, torch.Tensor]:
            if number == 3:
                stage.save()
            if number == 5:
                raise Stopped
            return super().step(number, progress)

    stage = Stage(Broken(SMALL, OPTIONS, utterances, seed=1, device=CPU), tmp_path / "broken", log_steps=2)
    with pytest.raises(Stopped):
        stage.train(Budget(steps=6), show_progress=False)
    resumed = made(utterances)
    assert Stage(resumed, tmp_path / "broken").number == 3
    trained(resumed, tmp_path / "broken", 6)
    assert torch.equal(weights(resumed), weights(whole))
    rows = read_curve(tmp_path / "broken" / "curves.jsonl")
    assert [row["step"] for row in rows if "flow" in row] == [2, 4, 6]


def test_a_finished_run_does_nothing_and_a_larger_budget_continues_it(utterances: Utterances, tmp_path: Path) -> None:
    before = weights(trained(made(utterances), tmp_path, 2))
    assert torch.equal(weights(trained(made(utterances), tmp_path, 2)), before)
    assert not torch.equal(weights(trained(made(utterances), tmp_path, 4)), before)
    assert read_curve(tmp_path / "curves.jsonl")[-1]["step"] == 4


def test_bfloat16_trains_about_as_well(utterances: Utterances, tmp_path: Path) -> None:
    flows = []
    for bf16 in (False, True):
        task = trained(made(utterances, replace(OPTIONS, bf16=bf16)), tmp_path / str(bf16), 12)
        flows.append(task.measure(tmp_path)["held_out_flow"])
    assert flows[1] == pytest.approx(flows[0], rel=0.05)


@pytest.mark.parametrize("capable", [True, False])
def test_bfloat16_is_left_to_processors_that_have_it(
    utterances: Utterances, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capable: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": capable})
    seen: set[torch.dtype] = set()
    task = made(utterances, replace(OPTIONS, bf16=None))
    for layer in task.dit.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.register_forward_hook(lambda layer, inputs, output: seen.add(output.dtype))
    trained(task, tmp_path, 1)
    assert seen
    assert (torch.bfloat16 in seen) is capable


def test_encoded_references_are_taken_up_whenever_there_are_new_ones(utterances: Utterances, tmp_path: Path) -> None:
    def clips(value: float) -> References:
        return References(torch.full((8, 80), value), torch.tensor([0]), torch.tensor([8]), {0: np.array([0])})

    answers = [None, clips(1.0), None, clips(2.0)]
    seen: list[set[float]] = []

    class Watched(DiTTask):
        def look_for_encoded(self) -> None:
            super().look_for_encoded()
            whole = [self._batches.draw(number)[0].speaker for number in range(12)]
            seen.append({value for clip in whole for value in (1.0, 2.0) if bool((clip == value).all(-1).any())})

    batches = replace(OPTIONS.batches, encoded=1.0, condition_noise=0.0)
    options = replace(OPTIONS, save_minutes=0.0, batches=batches)
    task = Watched(SMALL, options, utterances, seed=1, device=CPU, encoded=lambda: answers.pop(0))
    train_dit(task, options, tmp_path, Budget(steps=4), show_progress=False)
    assert seen == [set(), {1.0}, {1.0}, {2.0}]


def test_training_starts_from_given_weights(utterances: Utterances) -> None:
    torch.manual_seed(5)
    start = Trainable(SMALL, OPTIONS).dit.state_dict()
    task = DiTTask(SMALL, OPTIONS, utterances, seed=1, device=CPU, start=start)
    assert all(torch.equal(tensor, start[name]) for name, tensor in task.dit.state_dict().items())


def test_muon_trains_the_projections_of_blocks_only() -> None:
    names = {name for name, parameter in Trainable(SMALL, OPTIONS).named_parameters() if is_matrix(name, parameter)}
    assert "dit.blocks.0.attention.wk_text.weight" in names
    assert "dit.text_encoder.blocks.1.mlp.w2.weight" in names
    assert not any("adaln" in name or "norm" in name or "embedding" in name or "heads" in name for name in names)
    assert "dit.in_proj.weight" not in names


def test_attention_on_the_right_byte_costs_nothing_and_elsewhere_much() -> None:
    seen = torch.tensor([[True, True, True, False]])
    where = torch.zeros(1, 2, 4)
    where[0, 0, 0] = where[0, 1, 2] = 1.0
    weight = torch.ones(1, 2)
    right = attention(where[:, None] * 50, seen, where, weight)
    wrong = attention(where.roll(1, -1)[:, None] * 50, seen, where, weight)
    hidden = attention(torch.tensor([0.0, 0.0, 0.0, 99.0]).expand(1, 1, 2, 4), seen, where, weight)
    assert right < 1e-3
    assert wrong > 5
    assert hidden == pytest.approx(np.log(3), abs=1e-3)


def test_auxiliary_losses_fade_out() -> None:
    terms = {name: torch.tensor(1.0) for name in ("flow", "attention", "ctc", "phone", "time")}
    losses = LossWeights(attention=1.0, ctc=1.0, phone=1.0, time=1.0, until=0.5)
    assert [float(total(terms, losses, progress)) for progress in (0.0, 0.25, 0.5, 1.0)] == [5.0, 3.0, 1.0, 1.0]


def test_frames_without_weight_do_not_count() -> None:
    values = torch.tensor([[1.0, 3.0, 100.0]])
    assert weighted_mean(values, torch.tensor([[1.0, 1.0, 0.0]])) == 2.0
    assert weighted_mean(values, torch.zeros(1, 3)) == 0.0


def test_rows_without_text_have_no_text_losses(utterances: Utterances) -> None:
    torch.manual_seed(0)
    model = Trainable(SMALL, OPTIONS)
    batches = Batches(utterances, replace(OPTIONS.batches, dropout=1.0, whole=1.0), seed=1)
    inputs, targets = batches.draw(0)
    terms = model.heads.terms(inputs, model.dit(inputs), targets, width=1.0)
    assert terms["flow"].item() > 0
    assert [terms[name].item() for name in ("attention", "ctc", "phone", "time")] == [0.0, 0.0, 0.0, 0.0]
