"""The bundled reference clips are speakers that the model was trained with, and are judged beside their teacher."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
import soundfile

from echo.types import SAMPLE_RATE, Audio
from train.evaluation.bundled import OPENING, Likeness, beside_teacher, clip_of, show
from train.evaluation.distance import edits
from train.evaluation.heard import Heard, of_teacher
from train.evaluation.parts import Opinion, Pitch, Words
from train.evaluation.pitch import contour, median_hz
from train.evaluation.recogniser import Recogniser, words_of
from train.evaluation.record import recorded
from train.evaluation.retold import retold
from train.evaluation.table import described as table_of
from train.tiny import prompts
from train.tiny.prompts import TEXT, VOICES, described, record
from train.tiny.teacher.speakers import Speaker, cast
from train.tiny.teacher.studio import LOUDNESS, RATE, Studio, Take

BUNDLED = Path(__file__).parents[2] / "audio_prompts"
SPEAKERS = {speaker.name: speaker for speaker in cast("natural")}


class Hummer(Studio):
    """Hums for a second whoever is asked, at a pitch of their own."""

    def record(self, speaker: Speaker, text: str) -> Take:
        pitch = 100.0 + 10.0 * sorted(SPEAKERS).index(speaker.name)
        time = np.arange(RATE) / RATE
        wave = sum(np.cos(2 * np.pi * h * pitch * time) / h for h in range(1, 8))
        samples = (LOUDNESS * wave / np.sqrt(np.mean(wave**2))).astype(np.float32)
        return Take(samples, (), np.zeros(len(text), np.float32))


def about() -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = json.loads((BUNDLED / "voices.json").read_text(encoding="utf-8"))
    return found


def test_the_speakers_are_varied_and_were_trained_with() -> None:
    assert len(set(VOICES.values())) == len(VOICES) == 8
    assert not any(SPEAKERS[name].held_out for name in VOICES.values())
    kinds = [(one["gender"], one["accent"]) for one in map(described, (SPEAKERS[name] for name in VOICES.values()))]
    assert set(kinds) == {(gender, accent) for gender in ("female", "male") for accent in ("American", "British")}
    assert len([kind for kind in kinds if kind[0] == "female"]) == 4


def test_recording_writes_a_clip_of_each_and_tells_what_it_is_made_of(tmp_path: Path) -> None:
    told = record(tmp_path, Hummer())
    assert {path.stem for path in tmp_path.glob("*.flac")} == set(VOICES)
    assert json.loads((tmp_path / "voices.json").read_text(encoding="utf-8")) == told
    heights = []
    for name in VOICES:
        samples, rate = soundfile.read(tmp_path / f"{name}.flac", dtype="float32")
        assert (rate, len(samples)) == (SAMPLE_RATE, SAMPLE_RATE)
        heights.append(median_hz(contour(clip_of(tmp_path, name).samples)))
    assert len(set(heights)) == len(VOICES)
    assert told["tiny_anna"]["timbre"] == {"af_heart": 1.0}


def test_the_bundled_clips_are_these_and_say_their_text() -> None:
    found = about()
    assert set(found) == set(VOICES) == {path.stem for path in BUNDLED.glob("*.flac")}
    raw = tomllib.loads(Path(prompts.__file__).with_name("teacher").joinpath("kokoro_cast.toml").read_text())
    hertz = {entry["name"]: entry["hertz"] for entry in raw["speaker"]}
    recogniser = Recogniser()
    wrong = 0
    for name, chosen in VOICES.items():
        samples, rate = soundfile.read(BUNDLED / f"{name}.flac", dtype="float32")
        assert rate == SAMPLE_RATE
        assert 3.0 < len(samples) / rate < 7.0
        level, peak = np.sqrt(np.mean(samples**2)), np.abs(samples).max()
        # A take whose peak would exceed full scale is quieter.
        assert level == pytest.approx(LOUDNESS, rel=0.02) or (level < LOUDNESS and peak > 0.95)
        seconds = round(len(samples) / rate, 2)
        assert found[name] == {**described(SPEAKERS[chosen]), "seconds": seconds, "text": TEXT}
        clip = clip_of(BUNDLED, name)
        assert median_hz(contour(clip.samples)) == pytest.approx(hertz[chosen], rel=0.2)
        wrong += edits(words_of(TEXT), recogniser.words(clip.samples))
    assert wrong / (len(VOICES) * len(words_of(TEXT))) < 0.2


def test_a_bundled_voice_is_judged_beside_its_teacher(tmp_path: Path) -> None:
    record(tmp_path, Hummer())
    clips = [clip_of(tmp_path, name) for name in VOICES]
    texts = ["How many people came?", "She had a dark suit."]
    items = retold(SPEAKERS[VOICES["tiny_dan"]], clips[list(VOICES).index("tiny_dan")], texts, Hummer())
    assert [item.recording.text for item in items] == texts

    class Deaf:
        def words(self, samples: Audio) -> list[str]:
            return ["how", "many"]

    def pitch_alone(samples: Audio) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        angle = 0.01 * (median_hz(contour(samples)) or 0.0)
        return np.array([np.cos(angle), np.sin(angle)], np.float32)

    parts = [Opinion(lambda samples: 4.0), Words(Deaf(), "whisper"), Likeness(pitch_alone, clips), Pitch()]
    found = beside_teacher(items, [of_teacher(item.recording) for item in items], parts)
    assert found["teacher"] == found["generated"]
    assert found["generated"]["opinion"]["mean"] == 4.0
    assert found["generated"]["whisper"]["rate"] == pytest.approx(7 / 9)
    assert found["generated"]["speaker"] == {"likeness": pytest.approx(1.0, abs=0.01), "first": 1.0}
    assert found["seconds"] == 2.0
    other = beside_teacher(
        items, [of_teacher(retold(SPEAKERS[VOICES["tiny_anna"]], clips[0], texts, Hummer())[0].recording)] * 2, parts
    )
    assert other["generated"]["speaker"]["first"] == 0.0
    results = {
        "texts": texts,
        "voices": {"tiny_dan": {"gender": "male", "accent": "American", **found}},
        "opening": {"text": OPENING, "voice": "tiny_anna", "times": 5, **other},
    }
    table = table_of(recorded("voices", "bundled", [], "cpu", results), "voices.json")
    assert "| `tiny_dan` | male, American | 4.00 | 4.00 | 0.78 | 0.78 | 1.00 | 1.00 | 1.00 |" in table
    assert "| `tiny_anna` | the README's first sentence, 5 times | 4.00 | 4.00 |" in table
    readme = " ".join((BUNDLED.parent / "README.md").read_text(encoding="utf-8").split())
    assert re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", readme).startswith(f"# Echo TTS Server {OPENING}")


def test_the_page_has_a_picture_and_two_sounds_of_every_voice(tmp_path: Path) -> None:
    sounds = np.random.default_rng(1).normal(0, 0.1, SAMPLE_RATE).astype(np.float32)
    show(tmp_path, {name: {"teacher": Heard(sounds), "generated": Heard(sounds[:9_000])} for name in VOICES})
    assert (tmp_path / "spectrograms.png").stat().st_size > 10_000
    assert len(list(tmp_path.glob("*.flac"))) == 2 * len(VOICES)
    assert soundfile.info(tmp_path / "tiny_anna-generated.flac").samplerate == RATE
