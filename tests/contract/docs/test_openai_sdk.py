"""The Python code of docs/integrations/openai-sdk.md, run as it stands there."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from tests.contract.docs.audio import decoded, spoken_seconds
from tests.contract.docs.pages import Page, aimed
from tests.contract.serving import Served

PAGE = Page("openai-sdk")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(heading: str, server: Served) -> None:
    Path("example.py").write_text(aimed(PAGE.block(heading, "python"), server), encoding="utf-8")
    runpy.run_path("example.py")


def test_a_file(checkout: Served) -> None:
    run("Python", checkout)
    audio = decoded(Path("speech.mp3").read_bytes())
    assert audio.codec == "mp3float"
    assert audio.seconds == pytest.approx(spoken_seconds(checkout), abs=0.1)


def test_playing_while_it_is_made(checkout: Served) -> None:
    run("Python, playing while it is made", checkout)
    audio = decoded(Path("speech.wav").read_bytes())
    assert (audio.sample_rate, audio.codec) == (24_000, "pcm_s16le")
    assert audio.seconds == pytest.approx(spoken_seconds(checkout), abs=0.1)


def test_options_of_this_server(checkout: Served) -> None:
    run("Python, with options of this server", checkout)
    assert decoded(Path("speech.wav").read_bytes()).sample_rate == 48_000
    assert [spoken.seed for spoken in checkout.script.spoken] == [42]
