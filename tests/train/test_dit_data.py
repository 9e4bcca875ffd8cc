"""Latents, phones and texts of a corpus, and the batches drawn from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.closeness import assert_close
from train.tiny.corpus import Recording
from train.tiny.dit_batches import Batches, BatchOptions, References
from train.tiny.dit_data import Utterances, build, describe, load
from train.tiny.dit_losses import places
from train.tiny.latents import Analysis
from train.tiny.teacher.phones import PHONES

from .small_speech import SECONDS, gathered, two_speakers

OPTIONS = BatchOptions(frames=256, buckets=(16, 32), crop_lengths=(16,), reference=(8, 12), condition_noise=0.0)
TEXTS = ("mama, oso.", "seso mo.", "amisi eso.", "o mi.", "sasa mimi oso.", "esemo.")


@pytest.fixture(scope="module")
def recordings() -> list[Recording]:
    return two_speakers(TEXTS)


@pytest.fixture(scope="module")
def analysis(recordings: list[Recording]) -> Analysis:
    return Analysis.fit(recordings)


@pytest.fixture(scope="module")
def utterances(recordings: list[Recording], analysis: Analysis) -> Utterances:
    return gathered(recordings, analysis, TEXTS[-1])


class Shelf:
    """As much of a corpus as is asked for its latents."""

    def __init__(self, recordings: Sequence[Recording]) -> None:
        self._recordings = recordings

    def __len__(self) -> int:
        return len(self._recordings)

    def __getitem__(self, index: int) -> Recording:
        return self._recordings[index]

    def part(self, indices: Sequence[int]) -> Shelf:
        return Shelf([self._recordings[index] for index in indices])

    def split(self, name: str) -> list[int]:
        return list(range(len(self))) if name == "train" else []

    def describe(self, index: int) -> tuple[str, str, str]:
        recording = self._recordings[index]
        return recording.key, recording.text, recording.speaker


def test_every_byte_has_the_time_at_which_it_is_spoken(utterances: Utterances) -> None:
    count = int(utterances.bytes[0])
    text = bytes(utterances.ids[0, :count].tolist())
    assert text == b"\0[S1] mama, oso."
    centres = utterances.centres[0, :count]
    assert (centres[:6] == -1).all()
    latent = 1024 / 22050
    assert_close(centres[6:], (torch.arange(10) + 0.5) * SECONDS / latent)


def test_every_latent_has_the_phones_of_its_quarters(utterances: Utterances) -> None:
    labels = utterances.labels[: int(utterances.length[0])]
    assert PHONES[int(labels[0, 0])] == "m"
    assert PHONES[int(labels[4, 0])] == "aa"  # 0.19 s: the second letter
    assert PHONES[int(labels[11, 1])] == "pau"  # 0.54 s: the comma
    spoken = [PHONES[int(phone)] for phone in utterances.phones[0, : int(utterances.sounds[0])]]
    assert spoken == ["m", "aa", "m", "aa", "ow", "s", "ow"]


def test_a_text_that_the_tokenizer_rewrites_is_refused(recordings: list[Recording], analysis: Analysis) -> None:
    with pytest.raises(ValueError, match="rewrites"):
        describe(replace(recordings[0], text="mama; oso."), analysis)


def test_what_was_built_is_loaded_and_a_grown_corpus_adds_to_it(
    recordings: list[Recording], analysis: Analysis, utterances: Utterances, tmp_path: Path
) -> None:
    some: Any = Shelf(recordings[:5])
    every: Any = Shelf([*recordings[6:], *recordings[:6]])  # numbered otherwise
    seen: list[tuple[int, int]] = []
    build(some, analysis, tmp_path)
    build(every, analysis, tmp_path, progress=lambda done, count: seen.append((done, count)))
    assert seen == [(5, 12), (12, 12)]
    loaded = load(tmp_path)
    assert len(loaded) == 12
    assert loaded.speakers == ("high", "low")
    assert sorted(loaded.length.tolist()) == sorted(utterances.length.tolist())
    assert torch.equal(loaded.latents[: loaded.length[0]], utterances.latents[: utterances.length[0]])


def test_nothing_to_load_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="analysis"):
        load(tmp_path)


def test_a_step_has_the_same_batch_whenever_it_is_drawn(utterances: Utterances) -> None:
    first, again = (Batches(utterances, OPTIONS, seed=3) for _ in range(2))
    for _ in range(3):
        first.draw(0)
    a, b, other = first.draw(5)[0], again.draw(5)[0], again.draw(6)[0]
    assert torch.equal(a.x, b.x)
    assert torch.equal(a.ids, b.ids)
    assert a.x.shape != other.x.shape or not torch.equal(a.x, other.x)


def test_noise_and_velocity_lead_back_to_the_latents(utterances: Utterances) -> None:
    batches = Batches(utterances, replace(OPTIONS, whole=1.0), seed=1)
    inputs, targets = batches.draw(0)
    clean = inputs.x - inputs.t[:, None, None] * targets.velocity
    lengths = (targets.frame_weight == 1).sum(1)
    for row, length in zip(clean, lengths, strict=True):
        known = [
            utterances.latents[o : o + n].float()
            for o, n in zip(utterances.offset.tolist(), utterances.length.tolist(), strict=True)
            if n == length
        ]
        assert any(torch.allclose(row[:length], candidate, atol=1e-4) for candidate in known)
        assert row[length:].abs().max() < 1e-4 if length < len(row) else True


def test_a_crop_sees_what_was_spoken_before_it(utterances: Utterances) -> None:
    batches = Batches(utterances, replace(OPTIONS, whole=0.0), seed=1)
    for step in range(20):
        inputs, targets = batches.draw(step)
        assert (targets.time[:, 0] == inputs.start + 0.5).all()
        if inputs.prefix is not None and inputs.prefix_mask is not None:
            assert torch.equal(inputs.prefix_mask.sum(1) * 4, inputs.start)
            assert (inputs.prefix[inputs.start == 0] == 0).all()
            assert (inputs.prefix[inputs.start > 0, 0].abs().sum(-1) > 0).all()
            return
    raise AssertionError("no crop had a prefix")


def test_no_batch_holds_what_is_held_out(utterances: Utterances) -> None:
    batches = Batches(utterances, OPTIONS, seed=1)
    assert len(batches) == 10
    for step in range(20):
        inputs, _ = batches.draw(step)
        for row in inputs.ids:
            assert bytes(row.tolist()).rstrip(b"\0").decode().removeprefix("\0[S1] ") in TEXTS[:-1]


def test_references_are_the_same_speakers_other_utterances(utterances: Utterances) -> None:
    batches = Batches(utterances, replace(OPTIONS, whole=1.0, dropout=0.0), seed=1)
    pitch = slice(70, 72)
    for step in range(5):
        inputs, targets = batches.draw(step)
        clean = (inputs.x - inputs.t[:, None, None] * targets.velocity)[..., pitch].amax((1, 2))
        reference = inputs.speaker.unflatten(-1, (4, 80))[..., pitch].amax((1, 2, 3))
        assert torch.equal(clean > 0.4, reference > 0.4)  # 180 Hz is 0.7 above 130 Hz, 100 Hz below it
        assert inputs.speaker_mask.any(1).all()


def test_encoded_references_are_used_as_often_as_asked(utterances: Utterances) -> None:
    marked = References(
        torch.full((20, 80), 9.0), torch.tensor([0]), torch.tensor([20]), {0: np.array([0]), 1: np.array([0])}
    )
    options = replace(OPTIONS, encoded=0.5, dropout=0.0)
    batches = Batches(utterances, options, seed=1, encoded=marked)
    used = torch.cat([(batches.draw(step)[0].speaker[:, 0] == 9.0).all(-1) for step in range(30)])
    assert 0.3 < used.float().mean() < 0.7


def test_conditions_are_dropped_now_and_then(utterances: Utterances) -> None:
    batches = Batches(utterances, replace(OPTIONS, dropout=0.5), seed=1)
    drawn = [batches.draw(step)[0] for step in range(30)]
    text = torch.cat([inputs.text_mask.any(1) for inputs in drawn]).float().mean()
    speaker = torch.cat([inputs.speaker_mask.any(1) for inputs in drawn]).float().mean()
    assert 0.3 < text < 0.7
    assert 0.3 < speaker < 0.7


def test_speakers_far_from_the_median_pace_are_left_out(utterances: Utterances) -> None:
    length = torch.where(utterances.speaker == 0, utterances.length, utterances.length // 2)
    slow = replace(utterances, length=length)
    kept = Batches(slow, replace(OPTIONS, slower=1.1, faster=0.9), seed=1)
    assert kept.speakers < 2
    assert Batches(slow, replace(OPTIONS, slower=3.0, faster=0.1), seed=1).speakers == 2


@pytest.mark.parametrize("whole", [0.0, 1.0])
def test_balance_draws_speakers_alike_however_much_they_say(utterances: Utterances, whole: float) -> None:
    rare = (utterances.ids == utterances.ids[0]).all(1)
    uneven = replace(utterances, speaker=(~rare).long())

    def share(balance: float) -> float:
        options = replace(OPTIONS, buckets=(64,), whole=whole, balance=balance, slower=9.0, faster=0.1)
        batches = Batches(uneven, options, seed=1)
        ids = [row for step in range(60) for row in batches.draw(step)[0].ids]
        return sum(torch.equal(row[:16], utterances.ids[0, :16].long()) for row in ids) / len(ids)

    assert share(0.0) == pytest.approx(0.2, abs=0.06)  # it has two of ten utterances
    assert share(0.5) == pytest.approx(1 / 3, abs=0.06)
    assert share(1.0) == pytest.approx(0.5, abs=0.06)


def test_the_wanted_attention_lies_on_the_byte_that_is_spoken(utterances: Utterances) -> None:
    inputs, targets = Batches(utterances, OPTIONS, seed=1).fixed([0, 1], 32, seed=0)
    timed = (targets.centres >= 0) & inputs.text_mask
    where, weight = places(targets, timed, 1.0)
    assert_close(where.sum(-1), torch.ones_like(weight))
    latent = 1024 / 22050
    for row in range(2):
        count = int(timed[row].sum())
        for frame in range(round(count * SECONDS / latent) - 1):
            byte = 6 + int((frame + 0.5) * latent / SECONDS)
            assert abs(int(where[row, frame].argmax()) - byte) <= 1
            assert weight[row, frame] == 1
        assert weight[row, -1] == 0


def test_a_split_without_recordings_is_an_error(utterances: Utterances) -> None:
    with pytest.raises(ValueError, match="heldout_speaker"):
        Batches(utterances, OPTIONS, seed=1, split="heldout_speaker")
