import json
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from train.tiny.corpus import LONGEST_S, LOUDNESS, RATE, Corpus, Recording, build
from train.tiny.teacher.espeak import Tuning
from train.tiny.teacher.speakers import Speaker

CAST = (
    Speaker("slt", "flite", "slt", 180.0, weight=2.5),
    Speaker("rms", "flite", "rms", 165.0),
    Speaker("max", "espeak-ng", Tuning("max"), 170.0),
    Speaker("awb", "flite", "awb", 175.0, held_out=True),
)


def sentences() -> tuple[list[str], list[str]]:
    return (
        ["The birch canoe slid on the smooth planks.", "Press the pants and sew a button on the vest."],
        ["A bird of the open sea."],
    )


def tiny_corpus(folder: Path, **changes: object) -> Corpus:
    options = {"hours": 0.02, "seed": 1, "speakers": CAST, "sentences": sentences, "shard_seconds": 36.0}
    return build(folder, **(options | changes))  # type: ignore[arg-type]


def read(folder: Path, index: int) -> tuple[str, float]:
    recording = Corpus.open(folder)[index]
    return recording.key, float(np.abs(recording.samples).sum())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    tiny_corpus(folder)
    return folder


@pytest.fixture(scope="module")
def corpus(folder: Path) -> Corpus:
    return Corpus.open(folder)


def test_every_recording_is_complete(corpus: Corpus) -> None:
    keys = set()
    for index in range(len(corpus)):
        recording = corpus[index]
        keys.add(recording.key)
        assert isinstance(recording, Recording)
        assert recording.samples.dtype == np.float32
        assert len(recording.samples) / RATE == corpus.seconds(index) <= LONGEST_S
        assert np.sqrt(np.mean(recording.samples**2)) == pytest.approx(LOUDNESS, rel=0.02)
        assert recording.characters.shape == (len(recording.text.encode()),)
        assert 0 < recording.characters[0] <= recording.characters[-1] < corpus.seconds(index)
        assert recording.phones[-1].end == pytest.approx(corpus.seconds(index), abs=0.002)
        assert recording.teacher == ("espeak-ng" if recording.speaker == "max" else "flite")
        assert corpus.describe(index) == (recording.key, recording.text, recording.speaker)
    assert len(keys) == len(corpus)


def test_the_parts_are_disjoint_and_hold_texts_and_speakers_apart(corpus: Corpus) -> None:
    train, texts, speakers = (corpus.split(name) for name in ("train", "heldout_text", "heldout_speaker"))
    assert sorted([*train, *texts, *speakers]) == list(range(len(corpus)))
    assert {corpus[index].speaker for index in speakers} == {"awb"}
    assert {corpus[index].speaker for index in train} == {"slt", "rms", "max"}
    held_out = {corpus[index].text for index in texts}
    assert len(held_out) == 60
    assert not held_out & {corpus[index].text for index in train}
    assert held_out < {corpus[index].text for index in speakers}


def test_the_training_part_has_the_hours_and_the_weights_asked_for(corpus: Corpus) -> None:
    train = corpus.split("train")
    assert sum(map(corpus.seconds, train)) == pytest.approx(2 * 36, abs=2 * LONGEST_S)
    said = [corpus[index].speaker for index in train]
    assert said.count("slt") > 1.5 * said.count("rms")


def test_a_cast_need_not_have_natural_voices_or_speakers_to_hold_out(tmp_path: Path) -> None:
    one = Speaker("max", "espeak-ng", Tuning("max"), 170.0)
    corpus = tiny_corpus(tmp_path, hours=0.01, speakers=(one,))
    assert corpus.speakers == ("max",)
    assert len({corpus[index].text for index in corpus.split("heldout_text")}) == 60
    assert not corpus.split("heldout_speaker")
    assert corpus.split("train")


def test_what_a_speaker_says_for_the_training_is_copied_at_other_speeds(tmp_path: Path) -> None:
    reader = Speaker("slt", "flite", "slt", 180.0, copies=(0.8, 1.25))
    corpus = tiny_corpus(tmp_path, hours=0.01, speakers=(reader,))
    assert corpus.speakers == ("slt", "slt-x0.8", "slt-x1.25")
    train = [corpus[index] for index in corpus.split("train")]
    assert {recording.speaker for recording in train} == set(corpus.speakers)
    assert {corpus[index].speaker for index in corpus.split("heldout_text")} == {"slt"}
    own = {recording.text: recording for recording in train if recording.speaker == "slt"}
    slower = [recording for recording in train if recording.speaker == "slt-x0.8"]
    assert slower
    for recording in slower:
        original = own[recording.text]
        assert (recording.teacher, original.teacher) == ("copy", "flite")
        assert len(recording.samples) == pytest.approx(len(original.samples) / 0.8, abs=2)
        assert recording.characters == pytest.approx(original.characters / np.float32(0.8), abs=1e-3)
        assert recording.phones[-1].end == pytest.approx(original.phones[-1].end / 0.8, abs=1e-3)


def test_recordings_of_a_speaker_are_found(corpus: Corpus) -> None:
    assert corpus.speakers == ("awb", "max", "rms", "slt")
    found = [corpus.of_speaker(speaker) for speaker in corpus.speakers]
    assert sum(map(len, found)) == len(corpus)
    assert all(corpus[index].speaker == "rms" for index in corpus.of_speaker("rms"))


def test_a_part_of_a_corpus_reads_the_same_and_carries_no_more(corpus: Corpus) -> None:
    part = corpus.part([5, 2])
    assert [part.describe(index) for index in range(len(part))] == [corpus.describe(5), corpus.describe(2)]
    assert np.array_equal(part[1].samples, corpus[2].samples)
    assert len(pickle.dumps(part)) < len(pickle.dumps(corpus)) / 5


def test_other_processes_read_the_same(folder: Path) -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(read, folder, 7).result() == read(folder, 7)


def test_a_stopped_build_keeps_its_shards_and_makes_the_others_the_same(folder: Path, tmp_path: Path) -> None:
    for name in ("texts.json", "heldout.jsonl", "heldout.s16", "train-0000.jsonl", "train-0000.s16"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "train-0001.s16").write_bytes(b"begun")
    kept = (tmp_path / "heldout.s16").stat().st_mtime_ns
    steps: list[tuple[int, int]] = []
    tiny_corpus(tmp_path, progress=lambda finished, shards: steps.append((finished, shards)))
    assert steps == [(2, 3), (3, 3)]
    assert (tmp_path / "heldout.s16").stat().st_mtime_ns == kept
    first, second = (
        [corpus[index] for index in corpus.split("train")] for corpus in map(Corpus.open, (folder, tmp_path))
    )
    assert [(one.key, one.speaker, one.text) for one in first] == [(one.key, one.speaker, one.text) for one in second]
    # eSpeak carries a little of its state from text to text; flite says the same every time.
    assert all(np.array_equal(a.samples, b.samples) for a, b in zip(first, second, strict=True) if a.teacher == "flite")


def test_unfinished_shards_are_not_read(folder: Path, tmp_path: Path) -> None:
    for name in ("heldout.jsonl", "heldout.s16", "train-0000.s16"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    assert not Corpus.open(tmp_path).split("train")


def test_another_seed_does_not_mix_into_a_corpus(folder: Path) -> None:
    with pytest.raises(ValueError, match="begun with seed 1"):
        tiny_corpus(folder, seed=2)


def test_an_empty_folder_says_how_to_build(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"python -m train\.tiny\.corpus"):
        Corpus.open(tmp_path)


def test_the_index_is_one_json_object_a_line(folder: Path) -> None:
    lines = (folder / "train-0000.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    ends = [entry["offset"] + entry["samples"] for entry in entries]
    assert [entry["offset"] for entry in entries] == [0, *ends[:-1]]
    assert (folder / "train-0000.s16").stat().st_size == 2 * ends[-1]
