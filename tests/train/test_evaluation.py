"""The evaluation on plain objects: what it hears in known sounds, how it sums up, compares and writes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import torch

from echo.engines.fake import FakeEngine, FakeScript
from echo.errors import LoadError
from echo.settings import HOME, load_settings
from echo.types import SAMPLE_RATE, SAMPLES_PER_LATENT, Audio, Utterance
from tests.train.small_speech import say
from train.evaluation import clicks, duration, pitch, similarity
from train.evaluation.distance import edits, rate, uncertainty
from train.evaluation.features import BANDS, mel, speech_frames
from train.evaluation.figures import LINES, WORDS, generated
from train.evaluation.heard import Heard, of_teacher, resampled
from train.evaluation.heldout import Item, choose, digest
from train.evaluation.merge import merged, require_same
from train.evaluation.page import draw, examples, save_sounds
from train.evaluation.parts import Clicks, Duration, Part, Pitch, Similarity, SpeakerLikeness, measure
from train.evaluation.phone_training import Example, Schedule, batch_loss, frame_classes, roughened, train
from train.evaluation.phones import SOUNDS, PhoneNet, PhoneRecogniser, sounds_of
from train.evaluation.recogniser import Recogniser, words_of
from train.evaluation.run import Options, describe_set, evaluate
from train.evaluation.systems import SHIPPED, Checkpoint, Codec, Voice
from train.evaluation.table import RESULTS, described, fill, load, table, times
from train.evaluation.times import Aligner, Errors, items_of, plain_words
from train.evaluation.verdict import verdict
from train.tiny.corpus import RATE, Recording, Split
from train.tiny.teacher.studio import Studio

TEXTS = ("some aims", "aim, see me", "i see a mime", "mo, is it", "same sea", "me, aim")


class Shelf:
    """A corpus in memory: (recording, split) pairs."""

    def __init__(self, entries: Sequence[tuple[Recording, Split]]) -> None:
        self._entries = entries

    def __getitem__(self, index: int, /) -> Recording:
        return self._entries[index][0]

    def split(self, name: Split, /) -> Sequence[int]:
        return [i for i, (_, split) in enumerate(self._entries) if split == name]

    def of_speaker(self, speaker: str, /) -> Sequence[int]:
        return [i for i, (recording, _) in enumerate(self._entries) if recording.speaker == speaker]

    def seconds(self, index: int, /) -> float:
        return len(self[index].samples) / RATE


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As many threads as a busy test machine has to spare."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def shelf() -> Shelf:
    """Two seen and two unseen speakers; three held-out texts are said by all, and every speaker says others, too."""
    entries: list[tuple[Recording, Split]] = []
    for number, (speaker, unseen) in enumerate((("ann", False), ("bob", False), ("cid", True), ("dot", True))):
        for text in TEXTS:
            held_out = text in TEXTS[:3]
            split: Split = "heldout_speaker" if unseen else "heldout_text" if held_out else "train"
            entries.append((say(text, speaker, 100.0 + 30 * number), split))
    return Shelf(entries)


def items(count: int = 3) -> list[Item]:
    return choose(shelf(), count)


def tone(hertz: float, seconds: float, sample_rate: int = SAMPLE_RATE) -> Audio:
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    return np.asarray(0.2 * np.sin(2 * np.pi * hertz * time), np.float32)


def silence(seconds: float, sample_rate: int = SAMPLE_RATE) -> Audio:
    return np.zeros(round(seconds * sample_rate), np.float32)


# -- held-out set


def test_held_out_items_have_different_held_out_texts_and_both_groups_of_speakers() -> None:
    chosen = items()
    assert {item.recording.text for item in chosen} == set(TEXTS[:3])
    assert [item.group for item in chosen].count("unseen") == 1
    assert all(item.recording.speaker in {"ann", "bob"} for item in chosen if item.group == "seen")


def test_reference_clip_is_of_the_same_speaker_saying_something_else() -> None:
    for item in items():
        assert item.reference.speaker == item.recording.speaker
        assert item.reference.text != item.recording.text


def test_same_seed_chooses_the_same_set_and_names_it_the_same() -> None:
    assert digest(items()) == digest(items())
    assert digest(items()) != digest(items(2))


def test_asking_for_more_texts_than_there_are_is_refused_with_the_number() -> None:
    with pytest.raises(ValueError, match="3 held-out texts of flite, but 4"):
        items(4)


def test_texts_that_other_voices_were_trained_on_are_not_used_for_unseen_speakers() -> None:
    only = Shelf([(say(text, "cid"), "heldout_speaker") for text in TEXTS] + [(say(TEXTS[0], "ann"), "heldout_text")])
    with pytest.raises(ValueError, match="1 held-out texts"):
        choose(only, 3)


# -- words and phones


def test_words_are_lower_case_without_marks_and_with_numbers_spelled() -> None:
    assert " ".join(words_of("“Don’t stop,” she said - at 42 o'clock!")) == "don't stop she said at forty two o'clock"
    assert " ".join(words_of("1,200 well-known 3.5")) == "one thousand two hundred well known three point five"
    assert words_of("...") == []


def test_edits_are_the_fewest_changes() -> None:
    assert edits("kitten", "sitting") == 3
    assert edits([], ["a", "b"]) == 2
    assert edits(["a", "b"], ["a", "b"]) == 0


def test_error_rate_is_over_all_words_and_its_uncertainty_shrinks_with_agreement() -> None:
    assert rate([1, 0], [2, 8]) == 0.1
    assert rate([], []) is None
    spread, same = uncertainty([0, 10], [10, 10]), uncertainty([5, 5], [10, 10])
    assert spread is not None
    assert same == pytest.approx(0)
    assert spread > 0.2
    assert uncertainty([1], [2]) is None


def test_recogniser_hears_nothing_in_silence_and_does_not_depend_on_what_it_heard_before() -> None:
    recogniser = Recogniser()
    clip, _ = soundfile.read(HOME / "audio_prompts" / "tiny_dan.flac", dtype="float32", frames=2 * SAMPLE_RATE)
    speech = resampled(clip, SAMPLE_RATE, RATE)
    first = recogniser.words(speech)
    assert first
    assert recogniser.words(silence(1, RATE)) == []
    recogniser.words(0.1 * tone(300, 1, RATE))
    assert recogniser.words(speech) == first


def test_pauses_are_no_sounds() -> None:
    assert sounds_of(say("a m").phones) == ["aa", "m"]


def test_frame_classes_follow_the_phone_times() -> None:
    recording = say("a m")
    classes = frame_classes(recording.phones, len(mel(recording.samples)) // 2)
    per_phone = len(classes) / 3
    assert classes[round(per_phone / 2)] == 1 + SOUNDS.index("aa")
    assert classes[round(1.5 * per_phone)] == 0
    assert classes[round(2.5 * per_phone)] == 1 + SOUNDS.index("m")


def test_phone_recogniser_learns_a_tiny_language() -> None:
    torch.manual_seed(0)
    net = PhoneNet(width=32)
    optimiser = torch.optim.AdamW(net.parameters(), 1e-2)
    batch = [Example.of(say(text)) for text in TEXTS[:3]]
    losses = []
    for step in range(12):
        loss = batch_loss(net, batch, np.random.default_rng(step))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


class PowerCut(Exception):
    """Ends a training."""


class Failing(Shelf):
    """A corpus that cannot be read any more after some recordings."""

    left = 3

    def __getitem__(self, index: int, /) -> Recording:
        if not self.left:
            raise PowerCut
        self.left -= 1
        return super().__getitem__(index)


def test_interrupted_phone_training_ends_in_the_same_recogniser(tmp_path: Path) -> None:
    entries: list[tuple[Recording, Split]] = [(say("me"), "train"), (say("aim"), "train")]
    schedule = Schedule(steps=2, batch=2, keep_every=1)
    path = tmp_path / "phones.safetensors"
    with pytest.raises(PowerCut):
        train(Failing(entries), path, schedule, quiet=True)
    assert not path.exists()
    resumed = train(Shelf(entries), path, schedule, quiet=True)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert PhoneRecogniser.load(path).digest == resumed.digest
    whole = train(Shelf(entries), tmp_path / "whole.safetensors", schedule, quiet=True)
    assert whole.digest == resumed.digest
    other = train(Shelf(entries), tmp_path / "other.safetensors", replace(schedule, seed=1), quiet=True)
    assert other.digest != whole.digest


def test_roughened_spectrum_keeps_its_shape_and_its_source() -> None:
    spectrum = mel(say("aim").samples)
    before = spectrum.copy()
    made = roughened(spectrum, np.random.default_rng(0))
    assert made.shape == spectrum.shape
    assert not np.allclose(made, spectrum)
    np.testing.assert_array_equal(spectrum, before)


# -- features, pitch


def test_mel_has_a_frame_per_hop_and_peaks_where_the_tone_is() -> None:
    spectrum = mel(tone(1000, 0.5, RATE))
    assert spectrum.shape == (-(-RATE // 2 // 256), BANDS)
    low, high = (mel(tone(hertz, 0.5, RATE)).mean(0).argmax() for hertz in (500, 3000))
    assert low < spectrum.mean(0).argmax() < high


def test_speech_frames_leave_out_silence() -> None:
    found = speech_frames(mel(np.concatenate([silence(0.5, RATE), tone(500, 0.5, RATE)])))
    assert not found[: len(found) // 2 - 2].any()
    assert found[len(found) // 2 + 2 :].all()


def test_pitch_of_a_voice_is_found_and_silence_has_none() -> None:
    found = pitch.median_hz(pitch.contour(say("aaaa", pitch=150).samples))
    assert found == pytest.approx(150, rel=0.02)
    assert pitch.median_hz(pitch.contour(silence(0.5, RATE))) is None


def test_melody_correlates_with_itself_whatever_the_tempo_and_not_with_its_reverse() -> None:
    def glide(from_hz: float, to_hz: float, seconds: float) -> Audio:
        phase = np.cumsum(np.linspace(from_hz, to_hz, round(seconds * RATE))) / RATE
        return np.asarray(0.1 * sum(np.sin(2 * np.pi * n * phase) / n for n in (1, 2, 3, 4)), np.float32)

    rise = glide(100, 200, 1.0)
    assert pitch.melody_correlation(rise, glide(120, 240, 1.5)) == pytest.approx(1, abs=0.02)
    assert pitch.melody_correlation(rise, glide(200, 100, 1.0)) == pytest.approx(-1, abs=0.05)
    assert pitch.melody_correlation(rise, silence(1.0, RATE)) is None


# -- similarity


def test_discriminants_find_the_direction_that_speakers_differ_in() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(12), 20)
    centres = rng.normal(0, 1, (12, 3))
    rows = np.concatenate([rng.normal(0, 10, (240, 3)), centres[labels] + rng.normal(0, 0.1, (240, 3))], axis=1)
    mean, projection = similarity.discriminants(rows, labels)
    vectors = [(rows[labels == label][:2] - mean) @ projection for label in range(12)]
    places = [
        similarity.rank(one, own, [other[1] for i, other in enumerate(vectors) if i != place])
        for place, (one, own) in enumerate(vectors)
    ]
    assert sum(place == 1 for place in places) >= 10


def test_rank_counts_the_clips_that_are_at_least_as_near() -> None:
    east, north = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    assert similarity.rank(east, east, [north, -east]) == 1
    assert similarity.rank(east, north, [east, -east]) == 2
    assert similarity.likeness(east, east) == 0
    assert similarity.likeness(east, north) > similarity.likeness(east, -east)


def test_too_few_speakers_for_a_ranking_are_reported_before_anything_is_measured() -> None:
    with pytest.raises(ValueError, match=r"needs 10 speakers, and the set has 2: ask for more --texts"):
        similarity.require_rivals(["s1", "s2", "s1"])
    similarity.require_rivals(f"s{number}" for number in range(10))
    with pytest.raises(ValueError, match="ask for more --texts"):
        SpeakerLikeness(lambda samples: np.ones(4, np.float32), items(3))


def test_rivals_are_nine_other_speakers_the_same_for_the_same_seed() -> None:
    speakers = [f"s{i}" for i in range(12)]
    found = similarity.rivals(speakers, "s3", seed=5)
    assert len(set(found)) == 9
    assert "s3" not in found
    assert similarity.rivals(speakers, "s3", seed=5) == found
    with pytest.raises(ValueError, match="needs 9 other speakers; the set has 2"):
        similarity.rivals(speakers[:3], "s0", seed=0)


def test_fitted_embedding_knows_speakers_of_different_pitch_again_also_after_saving(tmp_path: Path) -> None:
    def voice(text: str, number: int) -> Recording:
        return say(text, f"s{number}", 90.0 * 1.12**number)

    similarity.fit(Shelf([(voice(text, n), "train") for n in range(10) for text in TEXTS[:4]])).save(tmp_path / "s.npz")
    made = [Item(voice(TEXTS[0], n), voice("mime", n), "seen") for n in range(10)]
    part = Similarity(similarity.Embedding.load(tmp_path / "s.npz"), made)
    rows = [part.row(item, of_teacher(item.recording)) for item in made]
    assert part.figures(rows)["top1"] >= 0.8


def test_an_output_is_compared_with_the_clip_it_was_cloned_from_not_with_another_of_its_speaker() -> None:
    def voice(text: str, number: int) -> Recording:
        return say(text, f"s{number}", 90.0 * 1.12**number)

    recordings = [voice(text, n) for n in range(10) for text in TEXTS[:4]]
    embedding = similarity.fit(Shelf([(recording, "train") for recording in recordings]))
    clips = [voice(TEXTS[2], 0), *(voice(TEXTS[0], n) for n in range(10))]
    part = Similarity(embedding, [Item(voice(TEXTS[1], max(n - 1, 0)), clip, "seen") for n, clip in enumerate(clips)])
    again = Item(voice(TEXTS[1], 0), clips[0], "seen")
    row = part.row(again, of_teacher(clips[0]))
    assert row["likeness"] > -0.1
    assert row["place"] == 1


# -- duration, end, clicks


def test_duration_error_is_of_the_sound_and_not_of_the_silence_around_it() -> None:
    teacher = np.concatenate([silence(0.3, RATE), tone(200, 1.0, RATE), silence(0.5, RATE)])
    assert duration.relative_error(tone(200, 1.2, RATE), teacher) == pytest.approx(0.2, abs=0.02)
    assert duration.relative_error(silence(1, RATE), teacher) is None


def test_ending_tells_speech_that_is_cut_off_from_speech_that_has_ended() -> None:
    whole = duration.ending(Heard(np.concatenate([tone(200, 1), silence(0.25)]), ended=True))
    assert whole.found
    assert not whole.cut_off
    assert whole.silence_s == pytest.approx(0.25, abs=0.02)
    cut = duration.ending(Heard(tone(200, 1), ended=False))
    assert not cut.found
    assert cut.cut_off


def test_step_at_a_border_clicks_and_a_smooth_border_does_not() -> None:
    smooth = tone(200, 1.0)
    border = len(smooth) // 2
    broken = smooth.copy()
    broken[border:] += 0.1
    at_border, elsewhere = clicks.scores(Heard(smooth, (border,)))
    assert clicks.audible(at_border) == 0
    at_border, elsewhere = clicks.scores(Heard(broken, (border,)))
    assert clicks.audible(at_border) == 1
    assert clicks.audible(elsewhere) == 0
    at_border, elsewhere = clicks.scores(Heard(broken))
    assert (len(at_border), clicks.audible(elsewhere)) == (0, 1)


# -- parts


def test_figures_are_of_all_and_of_each_group() -> None:
    chosen = items()
    rows = [{"error": 0.1 if item.group == "seen" else -0.4, **_ended()} for item in chosen]
    found = measure(Duration(), chosen, rows)
    assert found["seen"]["error_percent"] == pytest.approx(10)
    assert found["unseen"]["bias_percent"] == pytest.approx(-40)
    assert found["all"]["error_percent"] == pytest.approx(20)


def test_silent_output_is_wholly_wrong_in_duration() -> None:
    assert Duration().figures([{"error": None, **_ended()}])["error_percent"] == 100


def test_pitch_of_the_teacher_is_that_of_its_clip() -> None:
    chosen = [
        Item(say("aim", f"s{hertz}", hertz), say("mime", f"s{hertz}", hertz), "seen") for hertz in (100, 130, 160, 190)
    ]
    part = Pitch()
    found = part.figures([part.row(item, of_teacher(item.recording)) for item in chosen])
    assert found["correlation"] > 0.99
    assert found["error_percent"] < 3
    assert found["melody"] is None or found["melody"] > 0.9


def _ended() -> dict[str, Any]:
    return {"found": True, "cut_off": False, "silence_s": 0.1}


# -- checkpoints


def test_checkpoint_is_named_after_its_folder_and_the_embedded_one_is_the_shipped_one(tmp_path: Path) -> None:
    assert Checkpoint.named("tiny").name == SHIPPED
    assert Checkpoint.named(str(tmp_path / "mine")).name == "mine"
    with pytest.raises(LoadError):
        Checkpoint.named(str(tmp_path)).files()


def test_shipped_checkpoint_has_a_size_and_a_digest() -> None:
    shipped = Checkpoint.named("tiny")
    assert 1e6 < shipped.nbytes() <= 60e6
    assert len(shipped.digest()) == 12


def test_voice_notes_the_borders_between_blocks_and_whether_the_end_was_found() -> None:
    def render(utterance: Utterance, block: int, count: int) -> Audio:
        return np.zeros(count, np.float32)

    settings = load_settings({}, model_repo="tiny")
    short = Voice(FakeEngine(FakeScript(audio_s_per_char=0.2, render=render)), settings)
    heard = short.speak("Some twenty letters.", None, seed=0)
    sizes = [block.size * SAMPLES_PER_LATENT for block in short.plan.blocks]
    assert heard.borders[0] == sizes[0]
    assert heard.ended
    endless = Voice(FakeEngine(FakeScript(audio_s_per_char=100, render=render)), settings)
    heard = endless.speak("Some twenty letters.", None, seed=0)
    assert heard.borders == tuple(np.cumsum(sizes)[:-1])
    assert not heard.ended


def test_codec_copy_is_as_long_as_the_recording() -> None:
    recording = say("see me")
    assert len(Codec.load(Checkpoint.named("tiny")).copy(recording).samples) == 2 * len(recording.samples)


def test_evaluation_of_the_shipped_checkpoint_has_every_column_and_every_item() -> None:
    chosen = items(2)
    parts: list[Part] = [Pitch(), Duration(), Clicks()]
    results, heard = evaluate(chosen, [Checkpoint.named("tiny")], parts, Options(parts=("pitch", "duration", "clicks")))
    assert list(heard) == ["teacher", f"{SHIPPED}/latents", f"{SHIPPED}/copy", f"{SHIPPED}/generated"]
    (shipped,) = results["checkpoints"]
    assert set(results["teacher"]) == {"pitch", "clicks"}
    assert results["teacher"]["clicks"]["all"]["borders"] is None
    assert results["teacher"]["clicks"]["all"]["elsewhere_per_minute"] >= 0
    assert set(shipped["generated"]) == {"pitch", "duration", "clicks"}
    assert set(results["items"][1]["heard"]) == set(heard)
    assert json.loads(json.dumps(results)) == results
    assert "generated" in table({"results": results})


# -- table


def checkpoint(name: str, *, wrong: int = 30, sounds: int = 40, own: float = 0.5, **more: Any) -> dict[str, Any]:
    """A checkpoint's part of a result, with ``wrong`` of 100 words and ``sounds`` of 100 phones wrong."""
    groups = ("all", "seen", "unseen")
    return {
        "name": name,
        "digest": f"{name}{wrong}{sounds}{own}",
        "bytes": 28_000_000,
        "generated": {
            "wer": {group: {"rate": wrong / 100} for group in groups},
            "phones": {group: {"rate": sounds / 100} for group in groups},
            "similarity": {group: {"top1": own} for group in groups},
        },
        "speed": {"2": {"rtf": 0.2}},
        **more,
    }


def results_of(*checkpoints: dict[str, Any], set_digest: str = "abc", evaluators: str = "one") -> dict[str, Any]:
    """A result of ten items that share the errors evenly."""
    heard = [
        {
            f"{made['name']}/generated": {
                part: {"errors": round(10 * made["generated"][part]["all"]["rate"]), "length": 10}
                for part in ("wer", "phones")
            }
            for made in checkpoints
        }
        for _ in range(10)
    ]
    return {
        "set": {"digest": set_digest, "texts": 10, "teacher": ["flite"], "speakers_seen": 3, "speakers_unseen": 2},
        "evaluators": {"phones": evaluators, "similarity": evaluators},
        "teacher": {"wer": {"all": {"rate": 0.1}}},
        "checkpoints": list(checkpoints),
        "items": [{"key": str(i), "heard": one} for i, one in enumerate(heard)],
    }


def record(*checkpoints: dict[str, Any]) -> dict[str, Any]:
    return {
        "evaluation": "tiny",
        "results": results_of(*checkpoints),
        "environment": {"device": "a processor", "cpu_cores": 2, "torch": "2"},
        "date": "2026-01-02T03:04:05+00:00",
        "commit": "0123456789ab",
        "dirty": False,
    }


def test_table_of_a_result_that_only_has_speeds_has_their_lines() -> None:
    fast = record(checkpoint("mine"))
    del fast["results"]["checkpoints"][0]["generated"]
    assert "| real-time factor" in table(fast)


def test_table_has_a_column_per_way_of_listening_and_the_targets() -> None:
    made = table(record(checkpoint("mine", copy={"wer": {"all": {"rate": 0.25}}})))
    head, _, first = made.splitlines()[:3]
    assert head == "|  | teacher | mine: codec's copy | **mine: generated** | target |"
    assert first == "| WER, pocketsphinx | 0.100 | 0.250 | 0.300 | ≤ 0.200 |"
    assert "| files, MB | – | – | 28.0 | ≤ 60.0 |" in made
    assert "pitch" not in made


def test_every_target_of_the_table_is_kept_or_not_in_the_right_direction() -> None:
    best = {line.title: line for line in LINES}
    words, clip = WORDS[0], best["speaker top-1 of 10 (own embedding), voices seen"]
    assert words.meets(0.19, 0.2)
    assert not words.meets(0.21, 0.2)
    assert clip.meets(0.9, 0.8)
    assert not clip.meets(0.7, 0.8)


def test_figures_that_were_not_measured_are_dashes() -> None:
    column = generated(checkpoint("mine"))
    assert {line.written(line.value(column)) for line in LINES if line.path[0] == "clicks"} == {"–"}


def test_page_is_filled_from_the_result_of_its_name(tmp_path: Path) -> None:
    page = "before\n<!-- evaluation:begin shipped -->\nold\n<!-- evaluation:end -->\nafter\n"
    assert "*Not measured yet.*" in fill(page, tmp_path)
    (tmp_path / "shipped.json").write_text(json.dumps(record(checkpoint("shipped"))), encoding="utf-8")
    made = fill(page, tmp_path)
    assert "commit 0123456789ab" in made
    assert "| WER, pocketsphinx |" in made
    assert made.startswith("before\n")
    assert made.endswith("-->\nafter\n")
    assert fill(made, tmp_path) == made
    with pytest.raises(ValueError, match="evaluation:begin"):
        fill("no markers", tmp_path)


def test_description_says_when_the_files_were_not_committed() -> None:
    assert "with local changes" in described({**record(checkpoint("shipped")), "dirty": True}, "x.json")


# -- verdict


def test_checkpoint_that_is_understood_better_wins() -> None:
    found = verdict(*_sides(checkpoint(SHIPPED, wrong=60, sounds=40), checkpoint("mine", wrong=30, sounds=20, own=0.8)))
    assert found.wins
    assert {contest.outcome for contest in found.contests} == {"won"}
    assert "The new one wins" in str(found)


def test_checkpoint_that_is_understood_less_loses_whatever_else_it_wins() -> None:
    found = verdict(*_sides(checkpoint(SHIPPED, sounds=20), checkpoint("mine", wrong=20, sounds=30, own=1.0)))
    assert not found.wins
    assert "worse in opinion" in found.reason


def test_equally_understood_checkpoint_does_not_replace_the_shipped_one() -> None:
    found = verdict(*_sides(checkpoint(SHIPPED), checkpoint("mine", own=1.0)))
    assert not found.wins
    assert "not better in opinion" in found.reason


def test_better_words_do_not_pay_for_more_lines_lost() -> None:
    old = checkpoint(SHIPPED, wrong=60, own=0.9)
    new = checkpoint("mine", wrong=50, own=0.3)
    found = verdict(*_sides(old, new))
    assert not found.wins
    assert "but it wins 1 lines and loses 2" in found.reason


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"bytes": 61_000_000}, "files, MB: 61.0 is beyond the limit of 60.0"),
        ({"speed": {"2": {"rtf": 0.4}}}, "2 cores: 0.40 is beyond"),
        ({"speed": {}}, "2 cores: not measured"),
    ],
)
def test_checkpoint_beyond_the_limits_loses(more: dict[str, Any], reason: str) -> None:
    found = verdict(*_sides(checkpoint(SHIPPED, wrong=90), checkpoint("mine", wrong=10, **more)))
    assert not found.wins
    assert reason in found.reason


def test_results_of_different_sets_are_not_compared() -> None:
    with pytest.raises(ValueError, match="different sets"):
        verdict(results_of(checkpoint(SHIPPED)), results_of(checkpoint("mine"), set_digest="def"))


def test_phones_heard_by_different_recognisers_are_not_compared() -> None:
    old, new = checkpoint(SHIPPED, wrong=60, sounds=10), checkpoint("mine", wrong=30, sounds=90)
    found = verdict(results_of(old), results_of(new, evaluators="two"))
    assert found.wins
    assert [contest.title for contest in found.contests] == ["WER, pocketsphinx"]


def test_one_result_with_both_is_enough_and_names_choose() -> None:
    both = results_of(checkpoint(SHIPPED, wrong=60), checkpoint("a", wrong=10), checkpoint("b", wrong=60))
    assert not verdict(both, both).wins
    assert verdict(both, both, new_name="a").wins
    with pytest.raises(ValueError, match="it has shipped, a, b"):
        verdict(both, both, new_name="c")


def _sides(old: dict[str, Any], new: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    return results_of(old), results_of(new)


# -- adding to a result


def test_part_that_is_measured_later_is_added_to_the_result() -> None:
    old = {**record(checkpoint("mine", speed={})), "command": "first"}
    new = {**record(checkpoint("mine")), "command": "second"}
    new["results"]["checkpoints"][0]["generated"] = {}
    for item in new["results"]["items"]:
        item["heard"] = {}
    both = merged(old, new)
    assert table(both) == table(record(checkpoint("mine")))
    assert both["results"]["items"] == old["results"]["items"]
    assert both["command"] == "first && second"


def test_result_of_other_weights_is_not_added_to() -> None:
    old, new = ({**record(checkpoint("mine", wrong=wrong)), "command": ""} for wrong in (10, 20))
    with pytest.raises(ValueError, match="other texts, voices or weights"):
        merged(old, new)


def test_what_could_not_be_added_is_found_before_it_is_measured() -> None:
    results = record(checkpoint("mine"))["results"]
    weights = [(one["name"], one["digest"]) for one in results["checkpoints"]]
    require_same(results, results["set"]["digest"], weights)
    for texts, others in (("other", weights), (results["set"]["digest"], [])):
        with pytest.raises(ValueError, match="other texts, voices or weights"):
            require_same(results, texts, others)


# -- page


def test_page_shows_both_groups_of_speakers() -> None:
    chosen = items()
    assert {chosen[place].group for place in examples(chosen, 2)} == {"seen", "unseen"}
    assert len(examples(chosen, 9)) == 3


def test_page_and_sounds_are_written(tmp_path: Path) -> None:
    chosen = items(2)
    teacher = [of_teacher(item.recording) for item in chosen]
    silent = [replace(one, samples=silence(0.01)) for one in teacher]
    columns = {"teacher": teacher, "mine/generated": silent}
    draw(tmp_path / "page.png", chosen, columns)
    assert (tmp_path / "page.png").read_bytes()[:4] == b"\x89PNG"
    save_sounds(tmp_path / "sounds", chosen, columns)
    names = sorted(path.name for path in (tmp_path / "sounds").iterdir())
    assert names == ["1-mine-generated.flac", "1-teacher.flac", "2-mine-generated.flac", "2-teacher.flac"]
    made, found_rate = soundfile.read(tmp_path / "sounds" / "1-teacher.flac", dtype="float32")
    assert found_rate == SAMPLE_RATE
    assert _near(made, teacher[examples(chosen)[0]].samples)


def test_set_is_described_by_its_texts_and_speakers() -> None:
    found = describe_set(items())
    assert (found["texts"], found["speakers_unseen"], found["teacher"]) == (3, 1, ["flite"])


def _near(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> bool:
    return len(a) == len(b) and float(np.abs(a - b).max()) < 1e-3


# -- times of words


def test_errors_of_times_are_figures_in_milliseconds_and_texts_without_times_are_counted() -> None:
    errors = Errors()
    errors.add([(0.0, 0.5), (0.5, 1.0)], [(0.01, 0.5), (0.46, 1.1)])
    errors.add(None, [(0.0, 1.0)])
    errors.add([(0.0, 1.0)], None)
    found = errors.figures()
    assert found["words"] == 2
    assert found["texts_failed"] == 2
    assert found["median_ms"] == 25.0
    assert found["starts"]["bias_ms"] == 15.0
    assert Errors().figures()["median_ms"] is None


def test_what_a_synthesiser_says_is_aligned_where_it_says_it() -> None:
    studio = Studio()
    texts = ["The weather was cold, and the water was warm.", "Please leave a message after the tone."]
    aligner, errors = Aligner(), Errors()
    for item in items_of(texts, studio):
        assert len(item.words) == len(item.phones) == len(plain_words(item.text))
        errors.add(aligner.words(item.text, item.phones, item.take.samples, RATE), item.words)
    found = errors.figures()
    assert found["texts_failed"] == 0
    assert found["median_ms"] < 40


def test_the_kept_times_of_words_keep_their_aims_and_are_a_table() -> None:
    record = load(RESULTS / "times.json")
    assert record["results"]["methods"] == ["attention"]
    for found in (record["results"]["given"], record["results"]["generated"], record["results"]["long"]):
        assert found["median_ms"] <= 40
        assert found["p90_ms"] <= 100
    assert record["results"]["long"]["drift_ms"] <= 50
    assert record["results"]["long"]["seconds"] >= 120
    lines = times(record).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[-1].startswith("| wanted |")
