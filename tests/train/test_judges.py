"""The judges' glue, on stand-ins for their models: no test needs the packages."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from echo.types import Audio
from tests.train.small_speech import say
from train.evaluation import __main__ as command
from train.evaluation.figures import LINES, OPINION, WHISPER
from train.evaluation.heard import of_teacher
from train.evaluation.heldout import Item
from train.evaluation.judges import packages
from train.evaluation.judges.opinion import Distortion
from train.evaluation.judges.packages import JUDGE_RATE, JudgeMissing, at_judge_rate
from train.evaluation.judges.speaker import similarity
from train.evaluation.parts import Band, NoiseAndDistortion, Opinion, SpeakerLikeness, Words, measure
from train.evaluation.run import JUDGED, PARTS
from train.evaluation.verdict import verdict
from train.tiny.corpus import RATE


def item(speaker: str = "ann", hertz: float = 120.0) -> Item:
    return Item(say("some aims", speaker, hertz), say("me, aim", speaker, hertz), "seen")


def test_a_missing_judge_is_named_with_what_installs_it() -> None:
    with pytest.raises(JudgeMissing, match="no_such_judge is not installed: make judge"):
        packages.package("no_such_judge.part")


def test_without_judges_everything_else_is_measured_and_what_is_left_out_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    assert set(command._measurable()) == set(PARTS) - set(JUDGED)
    told = capsys.readouterr().err
    assert "opinion" in told
    assert "faster-whisper" in told
    assert "make judge" in told
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: object())
    assert command._measurable() == PARTS


def test_what_judges_import_and_never_use_is_stood_in_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("webrtcvad", "scipy.ndimage.morphology"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None if name == "webrtcvad" else object())
    assert packages.package("json") is sys.modules["json"]
    assert isinstance(sys.modules["webrtcvad"], ModuleType)
    assert callable(sys.modules["scipy.ndimage.morphology"].binary_dilation)


def test_judges_get_16_khz_within_full_scale() -> None:
    audio = at_judge_rate(np.full(RATE, 2.0, np.float32))
    assert len(audio) == JUDGE_RATE
    assert audio.dtype == np.float32
    assert float(audio.max()) <= 1.0


def test_opinions_are_averaged_with_their_standard_error() -> None:
    part = Opinion(lambda samples: float(len(samples) > 0) * 3.0)
    rows = [part.row(item(), of_teacher(item().recording)) for _ in range(3)]
    assert part.figures(rows) == {"mean": 3.0, "uncertainty": 0.0}
    spread = part.figures([{"opinion": 2.0}, {"opinion": 4.0}])
    assert spread == {"mean": 3.0, "uncertainty": 1.0}


def test_noise_and_distortion_have_two_figures() -> None:
    part = NoiseAndDistortion(lambda samples: Distortion(3.0, 4.0))
    assert part.figures([part.row(item(), of_teacher(item().recording))]) == {"overall": 3.0, "p808": 4.0}


def test_another_recogniser_has_a_name_and_a_line_of_its_own() -> None:
    class Deaf:
        def words(self, samples: Audio) -> list[str]:
            return ["some"]

    part = Words(Deaf(), "whisper")
    figures = measure(part, [item()], [part.row(item(), of_teacher(item().recording))])
    assert part.name == "whisper"
    assert WHISPER[0].value({"whisper": figures}) == 0.5


def test_an_output_is_likest_its_own_clip() -> None:
    speakers = [item(name, 100.0 + 10 * place) for place, name in enumerate("abcdefghijkl")]

    def encoder(samples: Audio) -> Any:
        """Unit vectors by the strongest frequency: one speaker has one pitch here."""
        spectrum = np.abs(np.fft.rfft(samples, 8192))[:200]
        return (spectrum / np.linalg.norm(spectrum)).astype(np.float32)

    part = SpeakerLikeness(encoder, speakers)
    rows = [part.row(one, of_teacher(one.reference)) for one in speakers]
    figures = part.figures(rows)
    assert figures["top1"] == 1.0
    assert figures["likeness"] == pytest.approx(1.0, abs=0.01)
    assert figures["nearest"] < 0.99
    assert similarity(encoder(speakers[0].reference.samples), encoder(speakers[0].reference.samples)) > 0.999


def test_the_upper_band_is_compared_with_the_teachers() -> None:
    one = Item(say("me, aim"), say("see me"), "seen")  # vowels: next to nothing up there
    noise = np.random.default_rng(0).standard_normal(len(one.recording.samples)).astype(np.float32) * 0.01
    bright = of_teacher(say("me, aim"))
    same = Band().figures([Band().row(one, bright)])
    louder = say("me, aim")
    louder.samples[:] += noise
    assert Band().figures([Band().row(one, of_teacher(louder))])["level_db"] > same["level_db"] + 2.0


def test_every_judged_part_has_a_line_and_is_measured_by_default() -> None:
    assert set(JUDGED) < set(PARTS)
    assert set(JUDGED) <= {line.path[0] for line in LINES}


def test_a_checkpoint_with_a_better_opinion_wins_though_it_is_understood_alike() -> None:
    def results(name: str, opinion: float, errors: int) -> dict[str, Any]:
        heard = {f"{name}/generated": {"opinion": {"opinion": opinion}, "wer": {"errors": errors, "length": 10}}}
        generated = {"opinion": {"all": {"mean": opinion}}, "wer": {"all": {"rate": errors / 10}}}
        melody = {"pitch": {"all": {"melody": opinion / 5}}}
        return {
            "set": {"digest": "abc"},
            "evaluators": {},
            "teacher": {},
            "checkpoints": [
                {
                    "name": name,
                    "digest": name,
                    "bytes": 1,
                    "speed": {"2": {"rtf": 0.1}},
                    "generated": {**generated, **melody},
                }
            ],
            "items": [{"heard": heard} for _ in range(6)],
        }

    old, new = results("shipped", 2.0, 1), results("new", 3.5, 1)
    found = verdict(old, new)
    assert found.wins, found
    assert found.contests[0].title == OPINION.title
    assert found.contests[0].outcome == "won"
    worse = verdict(old, results("new", 3.5, 5))
    assert not worse.wins
    assert "worse in opinion, WER or PER" in worse.reason
