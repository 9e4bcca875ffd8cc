"""Mantella with the settings of docs/integrations/mantella.md: start-up checks and lines of both services."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import httpx
import pytest
import soundfile

from echo.settings import Settings
from tests.contract.docs.pages import Page, aimed
from tests.contract.serving import PATIENCE_S, Gate, Served, serving, write_voice

PAGE = Page("mantella")
COMPATIBLE, XTTS, STREAMED = "OpenAI-Compatible", "XTTS", "Streamed lines"
TEXT = "I used to be an adventurer like you, until I took an arrow to the knee."  # two blocks of the fake's audio


@pytest.fixture
def voices(tmp_path: Path) -> Path:
    """A voices folder as the page says."""
    for name in ("FemaleNord", "MaleEvenToned"):
        write_voice(tmp_path / f"{name}.wav")
    return tmp_path


def started(heading: str, voices: Path) -> Settings:
    return PAGE.server_settings(heading).model_copy(update={"voices_dir": (str(voices),)})


def sanitized(voice: str) -> str:
    """Mantella's form of a voice's name."""
    return voice.replace(" ", "").lower()


class OpenAiCompatible:
    """Does what its OpenAI-compatible service does, with its settings as the page has them."""

    def __init__(self, server: Served, voice: str = "FemaleNord", url: str | None = None) -> None:
        settings = PAGE.settings(COMPATIBLE)
        base = url or aimed(settings["URL"], server)
        self.base = base
        self.url = f"{base}/audio/speech" if base.endswith("/v1") else f"{base}/v1/audio/speech"
        self.headers = {"Authorization": "Bearer abc123"}
        self.body = {
            "model": settings["Model"],
            "voice": sanitized(voice),
            "response_format": "wav",
            "speed": float(settings["Speed"]),
        }

    def speak(self, line: str) -> httpx.Response:
        body = {**self.body, "input": line}
        return httpx.post(self.url, json=body, headers=self.headers, timeout=PATIENCE_S)


@pytest.mark.parametrize("root", [False, True])
def test_a_line_is_a_complete_16_bit_file(voices: Path, root: bool) -> None:
    with serving(started(COMPATIBLE, voices)) as server:
        client = OpenAiCompatible(server, url=server.url if root else None)
        probed = httpx.get(client.base, timeout=PATIENCE_S)  # any answer will do
        assert probed.status_code == (200 if root else 404)
        answer = client.speak(TEXT)
        assert answer.status_code == 200
        info = soundfile.info(io.BytesIO(answer.content))
        assert (info.format, info.subtype, info.channels) == ("WAV", "PCM_16", 1)
        assert info.frames * 2 + 44 == len(answer.content)


def test_a_missing_voice_is_refused_and_not_replaced(voices: Path) -> None:
    with serving(started(COMPATIBLE, voices)) as server:
        answer = OpenAiCompatible(server, voice="Male Khajiit").speak(TEXT)
        assert answer.status_code == 400
        assert not server.script.spoken


def test_a_streamed_line_starts_before_it_is_made(voices: Path) -> None:
    with serving(started(STREAMED, voices)) as server:
        server.script.render = gate = Gate(block=1)
        client = OpenAiCompatible(server)
        body = {**client.body, "input": TEXT}
        with httpx.stream("POST", client.url, json=body, headers=client.headers, timeout=PATIENCE_S) as answer:
            pieces = answer.iter_bytes()
            head = next(pieces)
            while len(head) <= 44:
                head += next(pieces)
            gate.open()
            audio = head + b"".join(pieces)
    assert not gate.expired
    riff, _, wave, fmt, _, tag, channels, rate, _, _, bits, data, size = struct.unpack("<4sI4s4sIHHIIHH4sI", audio[:44])
    assert (riff, wave, fmt, tag, channels, bits, data) == (b"RIFF", b"WAVE", b"fmt ", 1, 1, 16, b"data")
    assert (rate, size) == (44_100, 0xFFFFFFFF)
    assert len(audio) % 2 == 0


def test_xtts_finds_its_voices_and_speaks(voices: Path) -> None:
    settings = PAGE.settings(XTTS)
    with serving(started(XTTS, voices)) as server, httpx.Client(timeout=PATIENCE_S) as client:
        url = aimed(settings["XTTS URL"], server)
        assert client.get(url).status_code == 200
        official = {"main", "v2.0.3", "v2.0.2", "v2.0.1", "v2.0.0"}
        assert settings["XTTS Default Model"] in official
        assert official & set(client.get(f"{url}/get_models_list").json())
        speakers = [sanitized(name) for name in client.get(f"{url}/speakers_list").json()["en"]["speakers"]]
        assert speakers == ["femalenord", "maleeventoned"]
        line = {"text": TEXT, "speaker_wav": sanitized("Female Nord"), "language": "en", "accent": "en"}
        spoken = client.post(f"{url}/tts_to_audio/", json=line)
        assert soundfile.info(io.BytesIO(spoken.content)).subtype == "PCM_16"


def test_the_ports_are_the_ones_that_the_page_names() -> None:
    for heading, name in ((COMPATIBLE, "URL"), (XTTS, "XTTS URL")):
        settings = PAGE.server_settings(heading)
        assert f"{settings.host}:{settings.port}" in PAGE.settings(heading)[name]
