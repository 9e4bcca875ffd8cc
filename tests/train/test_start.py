"""Training can continue from a model whose latents are another basis."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.closeness import assert_close
from train.tiny import config
from train.tiny.config import CorpusOptions, RunOptions
from train.tiny.dit import DiTOptions, Trainable
from train.tiny.export import model_folder
from train.tiny.latents import NARROW, WIDE, Analysis
from train.tiny.stages import Run
from train.tiny.start import ANALYSIS, rotated_weights

from .small_speech import say, write_corpus
from .test_dit_model import SMALL, batch


def test_turned_weights_speak_turned_latents() -> None:
    torch.manual_seed(0)
    dit = Trainable(SMALL, DiTOptions()).dit.requires_grad_(False)
    for parameter in dit.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.1)
    inputs = batch()
    before = dit(inputs).velocity
    turn = torch.linalg.qr(torch.randn(80, 80)).Q
    dit.load_state_dict(rotated_weights(dit.state_dict(), turn))
    assert inputs.prefix is not None
    turned = type(inputs)(
        x=inputs.x @ turn,
        t=inputs.t,
        start=inputs.start,
        ids=inputs.ids,
        text_mask=inputs.text_mask,
        speaker=(inputs.speaker.unflatten(-1, (4, 80)) @ turn).flatten(-2),
        speaker_mask=inputs.speaker_mask,
        prefix=(inputs.prefix.unflatten(-1, (4, 80)) @ turn).flatten(-2),
        prefix_mask=inputs.prefix_mask,
    )
    assert_close(dit(turned).velocity, before @ turn, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("wide", "phases"), [(False, True), (True, True), (False, False), (True, False)])
def test_the_analysis_of_the_model_to_start_from_is_taken_only_where_it_is_of_the_kind_that_is_asked_for(
    tmp_path: Path, wide: bool, phases: bool
) -> None:
    write_corpus(tmp_path / "corpus", [say("some aims see me mo")], ["train"])
    chosen = replace(
        config.load(config.DEFAULT),
        run=RunOptions(work=str(tmp_path)),
        corpus=CorpusOptions(workers=1, wide=wide, phases=phases),
        dit=DiTOptions(start_from="tiny"),
    )
    Run(chosen, torch.device("cpu"), {}).stage("analysis")
    found = Analysis.load(tmp_path / ANALYSIS)
    assert (found.bands, found.phases) == (WIDE if wide else NARROW, phases)
    assert found.same_as(Analysis.load(model_folder("tiny") / ANALYSIS)) == (wide and not phases)
