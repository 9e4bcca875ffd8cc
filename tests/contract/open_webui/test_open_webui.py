"""Open WebUI with the settings of docs/integrations/open-webui.md: the requests of its server."""

from __future__ import annotations

import json
import shlex
from typing import Any

import httpx
import pytest

from echo.settings import Settings
from tests.contract.docs.audio import decoded, spoken_seconds
from tests.contract.docs.pages import Page, aimed
from tests.contract.serving import PATIENCE_S, Served, serving

PAGE = Page("open-webui")
#: What it offers when it cannot get a list of voices.
FALLBACK_VOICES = ["alloy", "echo", "fable", "onyx", "nova", "shimmer"]
#: Sent along where the operator wants users to be known.
USER_HEADERS = {"X-OpenWebUI-User-Name": "J%C3%BCrgen", "X-OpenWebUI-User-Id": "1", "X-OpenWebUI-User-Role": "user"}


class OpenWebUi:
    """Does what its ``/audio`` routes do, with its settings as the page has them."""

    def __init__(self, server: Served, **settings: str) -> None:
        lines = aimed(PAGE.block("Settings", "env"), server).splitlines()
        self.settings = dict(line.split("=", 1) for line in lines) | settings
        assert self.settings["AUDIO_TTS_ENGINE"] == "openai"
        self.url = self.settings["AUDIO_TTS_OPENAI_API_BASE_URL"]

    def get(self, path: str) -> httpx.Response:
        """Ask for a list, without a key."""
        return httpx.get(self.url + path, timeout=PATIENCE_S)

    def speak(self, text: str, voice: str | None = None, **headers: str) -> httpx.Response:
        browser = {"input": text, "voice": voice or self.settings["AUDIO_TTS_VOICE"]}
        body = {**browser, "model": self.settings["AUDIO_TTS_MODEL"]}
        body |= json.loads(self.settings["AUDIO_TTS_OPENAI_PARAMS"])
        key = {"Authorization": f"Bearer {self.settings['AUDIO_TTS_OPENAI_API_KEY']}"}
        return httpx.post(self.url + "/audio/speech", json=body, headers={**key, **headers}, timeout=PATIENCE_S)


def test_it_offers_models_and_voices(checkout: Served) -> None:
    client = OpenWebUi(checkout)
    models = client.get("/audio/models").json()["models"]
    assert client.settings["AUDIO_TTS_MODEL"] in [model["id"] for model in models]
    voices = {voice["id"]: voice["name"] for voice in client.get("/audio/voices").json()["voices"]}
    assert client.settings["AUDIO_TTS_VOICE"] in voices


@pytest.mark.parametrize("headers", [{}, USER_HEADERS])
def test_what_it_keeps_as_mp3_is_mp3(checkout: Served, headers: dict[str, str]) -> None:
    answer = OpenWebUi(checkout).speak("Good evening.", **headers)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "audio/mpeg")
    audio = decoded(answer.content)
    assert audio.codec == "mp3float"
    assert audio.seconds == pytest.approx(spoken_seconds(checkout) / 1.1, abs=0.1)
    assert answer.headers["x-speed-applied"] == "1.1"


def test_additional_parameters_are_checked(checkout: Served) -> None:
    client = OpenWebUi(checkout, AUDIO_TTS_OPENAI_PARAMS=json.dumps({"seed": 7, "cfg_scale_text": "much"}))
    answer = client.speak("Good evening.")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "cfg_scale_text")


def test_it_can_show_what_went_wrong(checkout: Served) -> None:
    answer = OpenWebUi(checkout).speak("Good evening.", voice="nobody")
    assert answer.status_code == 400
    shown: Any = f"External: {answer.json()['error'].get('message', '')}"
    assert "nobody" in shown


def test_with_a_key_it_falls_back_to_names_that_speak() -> None:
    settings = PAGE.server_settings("With a key")
    (key,) = (key.get_secret_value() for key in settings.api_keys)
    with serving(settings) as server:
        client = OpenWebUi(server, AUDIO_TTS_OPENAI_API_KEY=key)
        assert client.get("/audio/voices").status_code == 401
        for voice in FALLBACK_VOICES:
            assert client.speak("Hi.", voice=voice).status_code == 200
        assert OpenWebUi(server).speak("Hi.").status_code == 401


def test_in_a_container_it_reaches_the_server() -> None:
    heading = "Open WebUI in a container"
    assert shlex.split(PAGE.block(heading, "sh"))[-1] == "api_server.py"
    assert PAGE.server_settings(heading) == Settings(host="0.0.0.0")
