"""What surrounds the natural teachers; the models themselves are not needed."""

from __future__ import annotations

import importlib.util
import random
import tomllib
from pathlib import Path

import numpy as np
import pytest

from train.tiny.teacher import kokoro, kokoro_cast
from train.tiny.teacher.ipa import heard, timed
from train.tiny.teacher.kokoro import Kokoro, Style, packs_folder
from train.tiny.teacher.kokoro_cast import Candidate, Judged, candidates, choose, table
from train.tiny.teacher.library import TeacherMissing
from train.tiny.teacher.phones import PAUSE, PHONES, Span, Speech, Word, character_times
from train.tiny.teacher.speakers import cast
from train.tiny.teacher.studio import Studio
from train.tiny.teacher.texts import Everyday, Texts

PACKS = ["af_heart", "af_bella", "am_adam", "am_michael", "bf_emma", "bm_george", "jf_alpha", "jm_kumo", "af_nicole"]
PROVIDERS_NAMES = ["af_alloy", "am_echo", "am_onyx", "af_nova", "bm_fable"]


def symbols(phonemes: str, text: str) -> list[str]:
    phones, _ = timed(text, phonemes, [1.0] * (len(phonemes) + 2), frame_s=0.025)
    return [phone.symbol for phone in phones]


def test_phones_have_the_models_own_durations_and_a_pause_is_where_the_comma_is() -> None:
    phonemes = "həlˈO, ju"
    frames = [10, 2, 3, 4, 1, 5, 6, 2, 3, 4, 8]
    phones, words = timed("Hello, you", phonemes, frames, frame_s=0.1)
    told = [(phone.symbol, round(phone.start, 3), round(phone.end, 3)) for phone in phones]
    assert told == [
        ("pau", 0.0, 1.0),
        ("hh", 1.0, 1.2),
        ("ax", 1.2, 1.5),
        ("l", 1.5, 1.9),
        ("ow", 1.9, 2.5),  # with its stress mark's frame
        ("pau", 2.5, 3.3),  # the comma and the space
        ("y", 3.3, 3.6),
        ("uw", 3.6, 4.0),
        ("pau", 4.0, 4.8),
    ]
    assert [(word.start, word.end) for word in words] == [(0, 5), (7, 10)]
    times = character_times("Hello, you", words)
    assert bool((np.diff(times) >= 0).all())


def test_neighbours_share_a_space_without_a_pause() -> None:
    phones, words = timed("so it", "sO ɪt", [1, 2, 2, 4, 2, 2, 1], frame_s=0.1)
    assert [phone.symbol for phone in phones] == ["pau", "s", "ow", "ih", "t", "pau"]
    assert phones[2].end == phones[3].start == pytest.approx(0.7)
    assert words[0].phones[-1] == phones[2]
    assert words[1].phones[0] == phones[3]


@pytest.mark.parametrize(
    ("phonemes", "text", "expected"),
    [
        ("bˈɜɹd", "bird", "b er d"),
        ("fˈɑðəɹ", "father", "f aa dh er"),
        ("əɹˈWnd", "around", "ax r aw n d"),
        ("fˈɜɹi", "furry", "f er iy"),
        ("kˈɑː", "car", "k aa"),
        ("ʤˈʌʤ", "judge", "jh ah jh"),
        ("ˈæftəɹ", "after", "ae f t er"),
    ],
)
def test_ipa_becomes_the_corpus_phones(phonemes: str, text: str, expected: str) -> None:
    assert symbols(phonemes, text) == [PAUSE, *expected.split(), PAUSE]
    assert set(symbols(phonemes, text)) <= set(PHONES)


def test_words_that_are_not_those_of_the_text_are_refused() -> None:
    with pytest.raises(ValueError, match="2 words are spoken where the text has 1"):
        symbols("tˈu wˈʌn", "twenty-one")
    with pytest.raises(ValueError, match="unknown phoneme"):
        symbols("ɧ", "x")


def test_speech_begins_and_ends_where_it_is_heard() -> None:
    rate = 1000
    samples = np.zeros(1000)
    samples[250:700] = 0.3
    phones = (Span(PAUSE, 0.0, 0.3), Span("s", 0.3, 0.4), Span("ow", 0.4, 0.9), Span(PAUSE, 0.9, 1.0))
    found = heard(Speech(samples, rate, phones, (Word(0, 2, phones[1:3]),)))
    assert [(phone.symbol, phone.start, phone.end) for phone in found.phones] == [
        ("pau", 0.0, 0.25),
        ("s", 0.25, 0.4),
        ("ow", 0.4, pytest.approx(0.7)),
        ("pau", pytest.approx(0.7), 1.0),
    ]
    assert found.words[0].phones == found.phones[1:3]


def test_missing_voice_packs_are_named_with_what_brings_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kokoro.PACKS, str(tmp_path))
    with pytest.raises(TeacherMissing, match="make natural-teachers"):
        packs_folder()


def test_a_missing_package_is_named_with_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TeacherMissing, match="onnx is not installed: make natural-teachers"):
        Kokoro()
    speaker = next(one for one in cast("natural") if one.teacher == "hibari")
    with pytest.raises(TeacherMissing, match="make natural-teachers"):
        Studio().require([speaker])


def test_timbre_and_prosody_come_from_different_packs(tmp_path: Path) -> None:
    for number, name in enumerate(("af_heart", "af_bella"), 1):
        np.full((510, 256), float(number), "<f4").tofile(tmp_path / f"{name}.bin")
    kokoro_ = Kokoro.__new__(Kokoro)
    kokoro_._packs = tmp_path
    style = Style(timbre=(("af_heart", 0.5), ("af_bella", 0.5)), prosody=(("af_bella", 1.0),))
    mixed = kokoro_._style(style, 12)
    assert mixed.shape == (1, 256)
    assert set(mixed[0, :128].tolist()) == {1.5}
    assert set(mixed[0, 128:].tolist()) == {2.0}


def test_candidates_are_the_same_every_time_and_leave_out_the_names_of_a_providers_voices() -> None:
    everybody = candidates([*PACKS, *PROVIDERS_NAMES])
    assert everybody == candidates([*PROVIDERS_NAMES, *reversed(PACKS)])
    for candidate in everybody:
        parts = (*candidate.style.timbre, *candidate.style.prosody)
        assert not {name for name, _ in parts} & set(PROVIDERS_NAMES)
        assert {name[1] for name, _ in candidate.style.timbre} == {candidate.sex}
        assert sum(weight for _, weight in candidate.style.timbre) == pytest.approx(1.0)
        assert all(name[0] in "ab" and name != "af_nicole" for name, _ in candidate.style.prosody)


def judged(number: int, angle: float, opinion: float = 4.5) -> Judged:
    return Judged(number, opinion, 120.0, (float(np.cos(angle)), float(np.sin(angle))))


def test_no_two_chosen_speakers_are_alike_and_unnatural_ones_are_left_out() -> None:
    everybody = [judged(0, 0.0), judged(1, 0.1), judged(2, 1.0), judged(3, 2.0, opinion=3.0), judged(4, 2.2)]
    assert [one.number for one in choose(everybody, different=0.9)] == [0, 2, 4]


def test_a_voice_in_a_crowd_does_not_keep_several_out() -> None:
    everybody = [judged(0, 0.0), judged(1, -0.4), judged(2, 0.4)]
    assert [one.number for one in choose(everybody, different=np.cos(0.5))] == [1, 2]


def test_the_table_is_read_back_as_the_speakers(tmp_path: Path) -> None:
    style = Style(timbre=(("af_heart", 0.4), ("af_bella", 0.6)), prosody=(("bf_emma", 1.0),), pitch=1.1, british=True)
    raw = tomllib.loads(table([Candidate("f", style)], [judged(0, 0.0)]))
    assert kokoro.style_of(raw["speaker"][0]) == style
    assert raw["speaker"][0]["name"] == "kokoro-f01"


def test_the_natural_cast_has_seventy_speakers_of_kokoro_of_both_sexes_and_keeps_some_for_the_evaluation() -> None:
    speakers = cast("natural")
    natural = [speaker for speaker in speakers if speaker.teacher == "kokoro"]
    assert len(natural) >= 70
    assert min(sum(one.name.startswith(f"kokoro-{sex}") for one in natural) for sex in "fm") >= 30
    assert 8 <= sum(one.held_out for one in natural) <= 12
    assert len({speaker.name for speaker in speakers}) == len(speakers)
    text = kokoro_cast.CAST.read_text(encoding="utf-8")
    assert not [name for name in PROVIDERS_NAMES if name in text]
    for one in natural:
        assert isinstance(one.voice, Style)
        assert 0.85 <= one.voice.pitch <= 1.18


def test_another_cast_is_refused() -> None:
    with pytest.raises(ValueError, match="no cast 'loud'"):
        cast("loud")


def test_dialogue_is_trained_on_and_the_held_out_texts_stay_the_same() -> None:
    examples, definitions = ["She walks home."], ["A small house."]
    plain = Texts(Everyday.bundled(), examples, definitions)
    more = Texts(Everyday.bundled(), examples, definitions, Everyday.dialogue())
    assert more.held_out == plain.held_out
    rng = random.Random(3)
    drawn = " ".join(more.draw(rng) for _ in range(300))
    assert "percent" in drawn
    assert "Professor" in drawn
    assert drawn.isascii()
    assert not any(character.isdigit() for character in drawn)
