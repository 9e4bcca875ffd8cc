"""The bundled reference clips can be made again, by speakers that the model was trained with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from echo.types import SAMPLE_RATE
from train.evaluation.bundled import clip_of, items_of, judged
from train.evaluation.heard import Heard, of_teacher
from train.evaluation.parts import Pitch, Words
from train.evaluation.recogniser import Recogniser
from train.evaluation.record import recorded
from train.evaluation.systems import Voice
from train.evaluation.table import described
from train.tiny.corpus import Recording
from train.tiny.prompts import TEXT, VOICES, record
from train.tiny.teacher.speakers import cast
from train.tiny.teacher.studio import LOUDNESS, RATE, Studio

BUNDLED = Path(__file__).parents[2] / "audio_prompts"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("prompts")
    record(made)
    return made


def test_the_speakers_are_varied_and_were_trained_with() -> None:
    speakers = {speaker.name: speaker for speaker in cast()}
    assert len(set(VOICES.values())) == len(VOICES) >= 6
    assert not any(speakers[name].held_out for name in VOICES.values())


def test_clips_have_the_level_and_length_of_a_reference(folder: Path) -> None:
    assert {path.stem for path in folder.glob("*.flac")} == set(VOICES)
    for name in VOICES:
        samples, rate = soundfile.read(folder / f"{name}.flac", dtype="float32")
        assert rate == SAMPLE_RATE
        assert 3.0 < len(samples) / rate < 7.0
        assert np.sqrt(np.mean(samples**2)) == pytest.approx(LOUDNESS, rel=0.02)


def test_the_bundled_clips_are_these(folder: Path) -> None:
    assert json.loads((BUNDLED / "voices.json").read_text()) == json.loads((folder / "voices.json").read_text())
    for name in VOICES:
        bundled, made = (soundfile.read(where / f"{name}.flac", dtype="float32")[0] for where in (BUNDLED, folder))
        assert len(bundled) == len(made)
        assert np.corrcoef(bundled, made)[0, 1] > 0.999
    assert all(about["text"] == TEXT for about in json.loads((BUNDLED / "voices.json").read_text()).values())


def test_a_bundled_voice_is_judged_beside_its_teacher(folder: Path) -> None:
    speakers = {speaker.name: speaker for speaker in cast()}
    clip = clip_of(folder, "tiny_dan")
    about = json.loads((folder / "voices.json").read_text())
    assert len(clip.samples) / RATE == pytest.approx(about["tiny_dan"]["seconds"], abs=0.01)
    items = items_of(speakers["flite-rms"], clip, ["How many people came?", "She had a dark suit."], Studio())
    assert [item.recording.text for item in items] == ["How many people came?", "She had a dark suit."]

    class Parrot(Voice):
        """Says everything as the teacher does."""

        def __init__(self) -> None:
            pass

        def speak(self, text: str, reference: Recording | None, *, seed: int) -> Heard:
            assert reference is clip
            return of_teacher(items[seed].recording)

    found = judged(Parrot(), items, Words(Recogniser()), Pitch())
    assert found["teacher"] == found["generated"]
    assert found["generated"]["rate"] < 0.5
    assert 80 < found["pitch_hz"] < 130
    assert found["pitch_error_percent"] < 15
    record = recorded("voices", "bundled", [], "cpu", {"texts": [""] * 2, "voices": {"tiny_dan": found}})
    assert "| `tiny_dan` |" in described(record, "voices.json")
