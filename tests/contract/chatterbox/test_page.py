"""The Python code and the presets of docs/integrations/chatterbox.md, as they stand there."""

from __future__ import annotations

import runpy
from pathlib import Path

import httpx
import pytest

from compat.chatterbox.schemas import ADAPTIVE, BALANCED, REALTIME
from echo.audio.frames import FRAME_BYTES
from tests.contract.docs.audio import spoken_seconds
from tests.contract.docs.pages import Page, aimed
from tests.contract.serving import Served

PAGE = Page("chatterbox")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(heading: str, server: Served, file: str) -> bytes:
    Path("example.py").write_text(aimed(PAGE.block(heading, "python"), server), encoding="utf-8")
    runpy.run_path("example.py")
    return Path(file).read_bytes()


def test_a_sentence(checkout: Served, capsys: pytest.CaptureFixture[str]) -> None:
    audio = run("A sentence per request", checkout, "hello.ulaw")
    assert len(audio) % FRAME_BYTES == 0
    assert len(audio) / 8000 == pytest.approx(spoken_seconds(checkout), abs=0.2)
    assert "voice_load" in capsys.readouterr().out


def test_text_while_it_is_written(checkout: Served) -> None:
    audio = run("Text while it is written", checkout, "answer.ulaw")
    assert len(audio) / 8000 == pytest.approx(spoken_seconds(checkout), abs=0.5)
    said = [utterance.text.removeprefix("[S1] ") for utterance in checkout.script.spoken]
    assert " ".join(said) == "I have found your order. It will arrive on Monday, at ten o'clock."
    assert len(said) > 1


def test_the_presets(checkout: Served) -> None:
    named = set(PAGE.settings("Presets"))
    assert {ADAPTIVE, BALANCED, REALTIME} < named
    assert named <= set(httpx.get(f"{checkout.url}/health", verify=False).json()["presets"])
    first = {}
    for preset in named:
        checkout.script.spoken.clear()
        body = {"text": "Hello.", "voice_id": "tiny_anna", "preset": preset}
        assert httpx.post(f"{checkout.url}/synthesize", json=body, verify=False).status_code == 200
        first[preset] = checkout.script.spoken[0].plan.blocks
    assert first["realtime"][0].size == first["adaptive"][0].size == min(blocks[0].size for blocks in first.values())
    assert first["expressive"][0].size == max(blocks[0].size for blocks in first.values())
    assert sum(block.steps for block in first["clone_fidelity"]) > sum(block.steps for block in first["balanced"])
    assert sum(block.steps for block in first["fast"]) < sum(block.steps for block in first["balanced"])
