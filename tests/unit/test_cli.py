import io
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from echo import __version__, cli
from echo.engines.remote.recipes import RECIPES
from tests.unit.voices.voice_files import touch_clips


@pytest.fixture(autouse=True)
def own_log() -> Iterator[None]:
    """The command line sets the log up for its process; here it is undone."""
    loggers = [logging.getLogger(name) for name in ("", "echo", "httpx", "httpcore", "uvicorn.access")]
    before = [(logger, logger.level, logger.handlers[:]) for logger in loggers]
    yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("ECHO_")]:
        monkeypatch.delenv(name)


def test_say_refuses_a_file_name_whose_format_it_cannot_tell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("speech.xyz", "speech", "speech.wav.txt"):
        path = tmp_path / name
        assert cli.main(["say", "Hello.", "-o", str(path)]) == 2
        message = capsys.readouterr()
        assert message.out == ""
        assert str(path) in message.err
        assert ".wav .mp3 .opus .ogg .flac .aac .pcm .raw" in message.err
        assert not path.exists()


def test_say_refuses_a_folder_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["say", "Hello.", "-o", str(tmp_path / "nowhere" / "speech.wav")]) == 2
    assert "there is no such folder" in capsys.readouterr().err


def test_say_wants_a_text_or_a_book_and_not_both(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text(" ")
    for arguments in (["say"], ["say", "Hello.", "--file", "book.txt"], ["say", "--file", "book.txt"]):
        assert cli.main(arguments) == 2
        assert capsys.readouterr().err.startswith("echo-tts: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "command"),
        (["sing", "Hello."], "invalid choice: 'sing'"),
        (["say", "Hello.", "--steps", "few"], "argument --steps: invalid int value: 'few'"),
        (["say", "Hello.", "--speed", "fast"], "argument --speed: invalid float value: 'fast'"),
        (["say", "Hello.", "--loud"], "unrecognized arguments: --loud"),
    ],
)
def test_wrong_arguments_end_with_status_2_and_a_hint(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("argument", "shown"), [("--version", __version__), ("--help", "say")])
def test_version_and_help_are_printed(argument: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([argument])
    assert ended.value.code == 0
    assert shown in capsys.readouterr().out


def test_voices_lists_the_configured_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    touch_clips(tmp_path, "zoe.wav", "adam.flac", "notes.txt")
    monkeypatch.setenv("ECHO_VOICES_DIR", str(tmp_path))
    assert cli.main(["voices"]) == 0
    assert capsys.readouterr().out.split() == ["adam", "zoe"]


def test_a_wrong_setting_ends_with_status_1_and_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ECHO_MAX_QUEUE", "many")
    assert cli.main(["voices"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("echo-tts: ECHO_MAX_QUEUE='many':")


def test_a_device_that_does_not_exist_is_refused_before_a_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello."))
    assert cli.main(["--device", "abacus", "say", "-", "-o", str(tmp_path / "a.wav")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("echo-tts: ECHO_DEVICE='abacus':")
    assert not (tmp_path / "a.wav").exists()


def test_engines_are_listed_checked_and_removed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ECHO_CACHE_DIR", str(tmp_path))
    assert cli.main(["engines", "list"]) == 0
    assert [line.split()[0:2] for line in capsys.readouterr().out.splitlines()] == [[name, "not"] for name in RECIPES]
    assert cli.main(["engines", "check", "kokoro"]) == 1
    assert capsys.readouterr().out == "kokoro is not installed: python -m echo engines install kokoro\n"
    assert cli.main(["engines", "check"]) == 0
    assert cli.main(["engines", "remove", "kokoro"]) == 0
    assert "kokoro is not installed" in capsys.readouterr().out
    assert cli.main(["engines", "install", "espeak"]) == 1
    assert "espeak: there is no such engine; there are kokoro" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["engines", "list", "--index-url", "x"])
