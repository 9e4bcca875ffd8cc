"""What the command line writes, plays and measures."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from echo import cli
from echo.api import TimedAudio
from echo.terminal import player
from echo.terminal.measure import TEXTS, Measured, measure, table
from echo.terminal.player import PlayerFailed
from echo.terminal.say import write
from echo.terminal.subtitles import Subtitles
from echo.text.times import Timed, TimesMethod
from echo.types import Audio, AudioFormat, Encoding

PARTS = [np.full(4410, 0.25, np.float32)] * 3


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A player that writes what it hears into this file."""
    heard = tmp_path / "heard.raw"
    code = f"import sys; open({str(heard)!r}, 'wb').write(sys.stdin.buffer.read())"
    monkeypatch.setattr(player, "_PLAYERS", ((sys.executable, "-c", code, "{rate}"),))
    return heard


@pytest.mark.parametrize("encoding", [Encoding.WAV, Encoding.FLAC, Encoding.PCM])
def test_what_is_spoken_is_written_and_played(tmp_path: Path, played: Path, encoding: Encoding) -> None:
    target = tmp_path / "out"
    write(PARTS, 44_100, target, AudioFormat(encoding=encoding), play=True)
    if encoding is Encoding.PCM:
        assert target.read_bytes() == played.read_bytes()
    else:
        assert soundfile.info(target).frames == 3 * 4410
    assert len(played.read_bytes()) == 2 * 3 * 4410


def test_it_can_be_played_without_a_file(tmp_path: Path, played: Path) -> None:
    write(PARTS, 44_100, None, AudioFormat(), play=True)
    assert [path.name for path in tmp_path.iterdir()] == ["heard.raw"]


def test_without_a_player_the_line_says_which_ones_would_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(player.shutil, "which", lambda name: None)
    with pytest.raises(PlayerFailed, match="aplay"):
        write(PARTS, 44_100, None, AudioFormat(), play=True)


def test_a_player_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(player, "_PLAYERS", ((sys.executable, "-c", "raise SystemExit(3)", "{rate}"),))
    with pytest.raises(PlayerFailed, match="sound device"):
        write(itertools.repeat(PARTS[0], 100), 44_100, None, AudioFormat(), play=True)


def test_nothing_is_written_when_the_request_is_wrong(tmp_path: Path) -> None:
    def wrong() -> Any:
        raise ValueError
        yield

    target = tmp_path / "out.wav"
    with pytest.raises(ValueError):  # noqa: PT011
        write(wrong(), 44_100, target, AudioFormat(encoding=Encoding.WAV), play=False)
    assert not target.exists()


def test_first_sound_and_real_time_factor() -> None:
    now = itertools.count()

    class Voice:
        sample_rate = 10

        def speak(self, text: str, **options: Any) -> Audio:
            return PARTS[0]

        def stream(self, text: str, **options: Any) -> Any:
            yield np.zeros(10, np.float32)
            yield np.zeros(10, np.float32)

    voice: Any = Voice()
    rows = measure(voice, times=3, clock=lambda: float(next(now)))
    assert rows == [Measured(text, 1.0, 2.0, 2.0) for text in TEXTS]
    shown = table("echo-tts on cpu", rows)
    assert shown.splitlines()[0] == "echo-tts on cpu"
    assert shown.splitlines()[-1] == "1.0 times as fast as it is heard"
    assert "stutter" in table("", [Measured("", 1.0, 4.0, 2.0)])


def test_subtitles_note_the_words_that_pass(tmp_path: Path) -> None:
    pieces = [
        TimedAudio(PARTS[0], (Timed("One", 0.0, 0.5),), TimesMethod.ATTENTION),
        TimedAudio(PARTS[0][:0], (Timed("two.", 0.5, 1.0),), TimesMethod.ESTIMATE),
    ]
    subtitles = Subtitles(tmp_path / "out.SRT")
    assert subtitles.method is None
    assert [len(samples) for samples in subtitles.note(pieces)] == [4410, 0]
    subtitles.write()
    assert subtitles.method is TimesMethod.ESTIMATE
    assert subtitles.path.read_bytes() == b"1\n00:00:00,000 --> 00:00:01,000\nOne two.\n"
    subtitles.write_pieces([[Timed("One", 0.0, 1.0)], [], [Timed("two", 1.0, 2.0)]], TimesMethod.ATTENTION)
    assert subtitles.method is TimesMethod.ATTENTION
    assert (
        subtitles.path.read_text() == "1\n00:00:00,000 --> 00:00:01,000\nOne\n\n2\n00:00:01,000 --> 00:00:02,000\ntwo\n"
    )
    with pytest.raises(ValueError, match="txt"):
        Subtitles(tmp_path / "out.txt")


@pytest.mark.parametrize(
    "arguments",
    [
        ["Hello.", "--subtitles", "out.txt"],
        ["Hello.", "--subtitles", "missing/out.srt"],
        ["--file", "book.txt", "--subtitles", "out.txt"],
        ["Hello.", "--play"],
        ["--file", "book.txt", "--play"],
    ],
)
def test_what_cannot_be_written_or_played_is_refused_before_anything_is_loaded(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text("It rained.")
    monkeypatch.setattr(cli, "set_up_log", lambda **_: None)
    monkeypatch.setattr(cli, "load", None)
    monkeypatch.setattr(player.shutil, "which", lambda name: None)
    assert cli.main(["say", *arguments]) != 0
    assert capsys.readouterr().err.startswith("echo-tts: ")
