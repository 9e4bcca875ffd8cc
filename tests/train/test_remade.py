"""The latents that the decoder is polished with: the transformer's, where the teacher's are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from train.tiny import remade as module
from train.tiny.codec_data import Material
from train.tiny.corpus import Recording
from train.tiny.dit_batches import Batches, BatchOptions
from train.tiny.dit_data import Utterances
from train.tiny.dit_model import Inputs, Outputs, TrainableDiT
from train.tiny.latents import Analysis
from train.tiny.remade import remade

from .small_speech import gathered, two_speakers
from .test_dit_model import SMALL

TEXTS = ("mama, oso.", "seso mo.", "amisi eso.", "o mi.")


@pytest.fixture(scope="module")
def recordings() -> list[Recording]:
    return two_speakers(TEXTS)


@pytest.fixture(scope="module")
def analysis(recordings: list[Recording]) -> Analysis:
    return Analysis.fit(recordings)


@pytest.fixture(scope="module")
def utterances(recordings: list[Recording], analysis: Analysis) -> Utterances:
    return gathered(recordings, analysis, TEXTS[-1])


class Knowing(TrainableDiT):
    """A transformer that knows where silence lies and whom it follows: it leads everything to ``aim``."""

    aim = 0.25

    def forward(self, batch: Inputs) -> Outputs:
        outputs = super().forward(batch)
        velocity = (batch.x - self.aim) / batch.t[:, None, None]
        return Outputs(velocity, outputs.text_state, outputs.hidden, outputs.alignments)


def remake(
    recordings: list[Recording], analysis: Analysis, utterances: Utterances, folder: Path, step: int
) -> Material:
    batches = Batches(utterances, BatchOptions(buckets=(32,), reference=(8, 12)), seed=1)
    material = Material.of(recordings, analysis)
    keys = [recording.key for recording in recordings]
    return remade(Knowing(SMALL), batches, utterances, material, keys, folder, step=step, seed=1)


def places(recordings: list[Recording], utterances: Utterances) -> list[slice]:
    """Where each recording lies in the material."""
    begin, found = 0, []
    for length in utterances.length.tolist():
        found.append(slice(begin, begin + length))
        begin += Material.room(length)
    return found


def test_every_trained_recording_gets_what_the_transformer_makes_of_it(
    recordings: list[Recording], analysis: Analysis, utterances: Utterances, tmp_path: Path
) -> None:
    exact = Material.of(recordings, analysis)
    made = remake(recordings, analysis, utterances, tmp_path, 1)
    between = torch.ones(len(made.latents), dtype=torch.bool)
    for recording, place in zip(recordings, places(recordings, utterances), strict=True):
        between[place] = False
        if recording.text == TEXTS[-1]:
            assert torch.equal(made.latents[place], exact.latents[place])  # held out: the transformer never met it
        else:
            assert torch.allclose(made.latents[place].float(), torch.tensor(Knowing.aim), atol=0.01)
    assert torch.equal(made.latents[between], exact.latents[between])
    assert torch.equal(made.samples, exact.samples)
    assert torch.equal(made.phase, exact.phase)


def test_what_was_made_is_kept_until_the_transformer_has_gone_on(
    recordings: list[Recording],
    analysis: Analysis,
    utterances: Utterances,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = remake(recordings, analysis, utterances, tmp_path, 1)
    made: list[int] = []
    original = module.remake

    def counted(*given: object, **named: object) -> dict[int, Tensor]:
        made.append(1)
        return original(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "remake", counted)
    assert torch.equal(remake(recordings, analysis, utterances, tmp_path, 1).latents, first.latents)
    assert not made
    remake(recordings, analysis, utterances, tmp_path, 2)
    assert made


def test_the_way_back_starts_no_further_up_than_it_should(
    recordings: list[Recording], analysis: Analysis, utterances: Utterances
) -> None:
    seen: list[Tensor] = []

    class Watching(Knowing):
        def forward(self, batch: Inputs) -> Outputs:
            seen.append(batch.t)
            return super().forward(batch)

    batches = Batches(utterances, BatchOptions(buckets=(32,), reference=(8, 12)), seed=1)
    module.remake(Watching(SMALL), batches, range(len(utterances)), seed=1)
    first = seen[0]
    assert ((first >= module.LEVEL[0]) & (first <= module.LEVEL[1])).all()
    assert all((times <= module.LEVEL[1]).all() for times in seen)
