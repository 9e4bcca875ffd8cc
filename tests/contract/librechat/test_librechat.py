"""LibreChat with the settings of docs/integrations/librechat.md: the requests of its server."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import yaml

from tests.contract.docs.audio import decoded, spoken_seconds
from tests.contract.docs.pages import Page, aimed
from tests.contract.serving import PATIENCE_S, Served

#: Texts from here on are sent in pieces of about PIECE.
WHOLE, PIECE = 4096, 1000


class LibreChat:
    """Does what its ``/api/files/speech/tts`` routes do, with its settings as the page has them."""

    def __init__(self, server: Served) -> None:
        page = Page("librechat").block("Settings", "yaml")
        self.settings: dict[str, Any] = yaml.safe_load(aimed(page, server))["speech"]["tts"]["openai"]

    def request(self, text: str, voice: str) -> httpx.Response:
        body = {"input": text, "model": self.settings["model"], "voice": voice}
        if "backend" in self.settings:
            body["backend"] = self.settings["backend"]
        headers = {"Authorization": f"Bearer {self.settings['apiKey']}", "Accept": "application/json, text/plain, */*"}
        return httpx.post(self.settings["url"], json=body, headers=headers, timeout=PATIENCE_S)

    def speak(self, text: str) -> bytes:
        """Return what the browser is sent, as audio/mpeg."""
        pieces = [text] if len(text) < WHOLE else [text[at : at + PIECE] for at in range(0, len(text), PIECE)]
        return b"".join(self.request(piece, self.settings["voices"][0]).content for piece in pieces)


@pytest.fixture
def client(checkout: Served) -> LibreChat:
    checkout.script.audio_s_per_char = 0.01
    return LibreChat(checkout)


def test_every_voice_it_may_draw_speaks(client: LibreChat) -> None:
    for voice in client.settings["voices"]:
        answer = client.request("Good evening.", voice)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "audio/mpeg")


def test_a_backend_that_it_names_is_ignored(client: LibreChat) -> None:
    client.settings["backend"] = "piper"
    assert client.request("Good evening.", client.settings["voices"][0]).status_code == 200


def test_the_browser_gets_mp3(client: LibreChat, checkout: Served) -> None:
    text = "Good evening, and welcome. " * 10
    audio = decoded(client.speak(text))
    assert audio.codec == "mp3float"
    assert audio.seconds == pytest.approx(spoken_seconds(checkout), abs=0.2)


def test_a_long_text_is_one_mp3_in_the_browser(client: LibreChat, checkout: Served) -> None:
    text = "Good evening, and welcome. " * 160
    assert len(text) >= WHOLE
    assert decoded(client.speak(text)).seconds == pytest.approx(spoken_seconds(checkout), rel=0.05)
