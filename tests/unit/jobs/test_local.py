"""A book without a server: nothing is spoken twice, and nothing of another book is used."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile

from echo.api import TimedAudio
from echo.jobs.local import BookProgress, speak_book
from echo.text.times import Timed, TimesMethod
from echo.types import AudioFormat, Encoding

BOOK = "Chapter 1\n\nIt rained.\n\nChapter 2\n\nIt stopped.\n\nChapter 3\n\nIt went on."
FLAC = AudioFormat(encoding=Encoding.FLAC)


class Voice:
    """Speaks half a second of anything, its first word at 0.1 s, and stops when it is told to."""

    info = SimpleNamespace(name="fake", sample_rate=8000)

    def __init__(self) -> None:
        self.spoken: list[tuple[str, int]] = []
        self.stop_at = 99

    def stream(self, text: str, *, times: bool, seed: int, **options: Any) -> Iterator[TimedAudio]:
        if len(self.spoken) == self.stop_at:
            raise KeyboardInterrupt
        self.spoken.append((text.partition("\n")[0], seed))
        yield TimedAudio(np.full(4000, 0.1, np.float32), (), TimesMethod.ATTENTION)
        yield TimedAudio(np.zeros(0, np.float32), (Timed(text.split()[0], 0.1, 0.4),), TimesMethod.ATTENTION)


def say(voice: Any, target: Path, text: str = BOOK, seed: int | None = None, **options: Any) -> list[BookProgress]:
    told: list[BookProgress] = []
    speak_book(voice, text, target, FLAC, **{"markdown": False, "seed": seed, "tell": told.append} | options)
    return told


def test_what_was_spoken_before_a_stop_is_kept_with_its_seed(tmp_path: Path) -> None:
    target, voice = tmp_path / "book.flac", Voice()
    voice.stop_at = 1
    with pytest.raises(KeyboardInterrupt):
        say(voice, target)
    assert not target.exists()
    voice.stop_at = 99
    told = say(voice, target)
    assert [text for text, _ in voice.spoken] == ["Chapter 1", "Chapter 2", "Chapter 3"]
    assert [seed - voice.spoken[0][1] for _, seed in voice.spoken] == [0, 1000, 2000]
    assert [piece.audio_s for piece in told] == [0.5] * 3
    assert soundfile.info(target).duration == pytest.approx(3 * (0.5 + 1.5))
    assert [path.name for path in tmp_path.iterdir()] == ["book.flac"]


def test_its_words_are_told_on_the_clock_of_the_book_those_of_before_a_stop_too(tmp_path: Path) -> None:
    target, voice = tmp_path / "book.flac", Voice()
    voice.stop_at = 2
    with pytest.raises(KeyboardInterrupt):
        say(voice, target)
    voice.stop_at = 99
    told: list[tuple[list[list[Timed]], TimesMethod]] = []
    say(voice, target, words=lambda pieces, method: told.append((pieces, method)))
    assert len(voice.spoken) == 3
    [(pieces, method)] = told
    # A chapter is followed by a second and a half of silence.
    starts = [0.1, 2.1, 4.1]
    assert [[word.text for word in piece] for piece in pieces] == [["Chapter"]] * 3
    assert [piece[0].start_s for piece in pieces] == pytest.approx(starts)
    assert [piece[0].end_s for piece in pieces] == pytest.approx([start + 0.3 for start in starts])
    assert method is TimesMethod.ATTENTION


@pytest.mark.parametrize("change", [{"text": BOOK + " Again."}, {"seed": 5}, {"speed": 2.0}])
def test_another_book_or_other_options_begin_again(tmp_path: Path, change: dict[str, Any]) -> None:
    target, voice = tmp_path / "book.flac", Voice()
    voice.stop_at = 2
    with pytest.raises(KeyboardInterrupt):
        say(voice, target, seed=1)
    voice.stop_at = 99
    say(voice, target, **{"seed": 1, **change})
    assert len(voice.spoken) == 5
