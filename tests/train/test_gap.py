"""The words of generated speech, by whether the text and the voice are known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from echo.sources import TINY_MODEL
from echo.types import Audio
from train.evaluation import gap
from train.evaluation.heard import Heard, of_teacher
from train.evaluation.heldout import Item
from train.evaluation.parts import Opinion, Words
from train.evaluation.record import recorded
from train.evaluation.systems import Checkpoint
from train.evaluation.table import load, publish
from train.tiny.corpus import Corpus
from train.tiny.teacher.speakers import Speaker
from train.tiny.teacher.studio import Studio, Take

from .small_speech import say, write_corpus

KNOWN, NEW = ("mama oso.", "seso mo.", "amisi eso."), ("o mi.", "esemo.")
SPLITS = {
    "mama oso.": "train",
    "seso mo.": "train",
    "amisi eso.": "train",
    "o mi.": "heldout_text",
    "esemo.": "heldout_text",
}


class Reader(Studio):
    """Reads in an artificial voice whatever it is asked."""

    def record(self, speaker: Speaker, text: str) -> Take:
        said = say(text, speaker.name, 140.0)
        return Take(said.samples, said.phones, said.characters)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    spoken = [
        replace(say(text, speaker, pitch), teacher=teacher)
        for speaker, teacher, pitch in (
            ("low", "kokoro", 100.0),
            ("high", "kokoro", 180.0),
            (gap.BEST_KNOWN, "hibari", 140.0),
        )
        for text in (*KNOWN, *NEW)
    ]
    write_corpus(tmp_path / "corpus", spoken, [SPLITS[recording.text] for recording in spoken])
    return Corpus.open(tmp_path / "corpus")


def test_each_text_is_said_in_its_own_voice_and_in_the_best_known_one(corpus: Corpus) -> None:
    items = gap.items_of(corpus, "train", 3)
    assert {item.recording.text for item in items} == set(KNOWN)
    assert {item.recording.teacher for item in items} == {"kokoro"}
    assert all(item.reference.speaker == item.recording.speaker for item in items)
    again = gap.in_best_known(items, corpus, Reader())
    assert [item.recording.text for item in again] == [item.recording.text for item in items]
    assert {item.recording.teacher for item in again} == {"hibari"}
    assert {item.recording.speaker for item in again} == {item.reference.speaker for item in again} == {gap.BEST_KNOWN}
    assert {item.recording.text for item in gap.items_of(corpus, "heldout_text", 2)} == set(NEW)
    with pytest.raises(ValueError, match=r"2 texts of kokoro in heldout_text, but 3"):
        gap.items_of(corpus, "heldout_text", 3)


def test_the_table_tells_new_texts_from_strange_voices(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Deaf:
        def words(self, samples: Audio) -> list[str]:
            return ["mama"] if len(samples) % 2 else []

    @contextmanager
    def opened(checkpoint: Checkpoint, *, threads: int) -> Iterator[str]:
        yield checkpoint.name

    def generated(voice: str, items: Sequence[Item], tick: Callable[[], Any]) -> list[Heard]:
        return [of_teacher(item.reference) for item in items]

    monkeypatch.setattr(gap, "open_voice", opened)
    monkeypatch.setattr(gap, "generate", generated)
    parts = [Words(Deaf(), "whisper"), Opinion(lambda samples: 3.0 + len(samples) % 2)]
    results = gap.evaluate([Checkpoint("new", TINY_MODEL), Checkpoint("old", TINY_MODEL)], corpus, 2, parts, Reader())
    record = recorded("gap", "gap", [], "cpu", results)
    publish(record, None, tmp_path)
    assert not list(tmp_path.glob("*.json"))
    publish(record, "words", tmp_path)
    assert load(tmp_path / "words.json") == record
    table = capsys.readouterr().out.split("*Generated")[-1]
    assert "words.json" in table
    titles = "| texts | voice | WER: teacher | WER: new | WER: old | opinion: teacher | opinion: new | opinion: old |"
    assert titles in table
    assert "2 texts of each kind by kokoro" in table
    lines = [line for line in table.splitlines() if line.startswith(("| held out", "| trained on"))]
    assert len(lines) == 4
    assert ["hibari's" in line for line in lines] == [False, True] * 2
    assert not any(" – " in line for line in lines)
