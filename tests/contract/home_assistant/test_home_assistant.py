"""Home Assistant with the settings of docs/integrations/home-assistant.md: the requests of its two bridges."""

from __future__ import annotations

import asyncio
import json
import struct
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from openai import AsyncOpenAI

from echo.settings import Settings
from tests.contract.docs.audio import decoded, spoken_seconds
from tests.contract.docs.pages import Page, aimed
from tests.contract.serving import PATIENCE_S, Serve, Served

PAGE = Page("home-assistant")
AGENT = {"Content-Type": "application/json", "User-Agent": "HomeAssistant-OpenAI-TTS"}
#: Voices that the Wyoming bridge offers when none are named.
OPENAI_VOICES = ["alloy", "ash", "coral", "echo", "fable", "onyx", "nova", "sage", "shimmer"]
TEXT = "The washing machine has finished."


def test_the_server_listens_where_home_assistant_can_reach_it() -> None:
    assert PAGE.server_settings("The server") == Settings(host="0.0.0.0")


# -- OpenAI TTS


class OpenAiTts:
    """Does what the custom integration does, with its settings as the page has them."""

    def __init__(self, server: Served) -> None:
        self.settings = PAGE.settings("OpenAI TTS")
        self.url = aimed(self.settings["API Endpoint"], server)

    def headers(self, key: str) -> dict[str, str]:
        return {**AGENT, "Authorization": f"Bearer {key}"} if key else AGENT

    def body(self, text: str, response_format: str | None = None) -> dict[str, Any]:
        body = {
            "model": self.settings["Model"],
            "input": text,
            "voice": self.settings["Voice"],
            "response_format": response_format or self.settings["Audio format"],
            "speed": float(self.settings["Speed"]),
        }
        extra: dict[str, Any] = json.loads(self.settings["Extra JSON payload"])
        return {**body, **extra}

    def validate(self, key: str, text: str = "") -> int:
        """Ask whether the key is accepted: with a text that is refused only after the key has been looked at."""
        body = {"model": "tts-1", "input": text, "voice": "alloy", "response_format": "mp3"}
        return httpx.post(self.url, json=body, headers=self.headers(key), timeout=PATIENCE_S).status_code


def test_its_voices_are_offered(checkout: Served) -> None:
    client = OpenAiTts(checkout)
    assert client.url.endswith("/audio/speech")
    listing = httpx.get(client.url.removesuffix("speech") + "voices", headers=client.headers("")).json()
    # Newer versions read items, data or voices, whichever is first; older ones voices.
    voices = [
        (voice["id"], voice["name"]) for voice in listing.get("items") or listing.get("data") or listing["voices"]
    ]
    assert client.settings["Voice"] in dict(voices)


@pytest.mark.parametrize("response_format", ["mp3", "opus", "aac", "flac", "wav"])
def test_a_whole_answer_can_be_decoded(checkout: Served, response_format: str) -> None:
    client = OpenAiTts(checkout)
    answer = httpx.post(client.url, json=client.body(TEXT, response_format), headers=AGENT, timeout=PATIENCE_S)
    assert answer.status_code == 200
    assert [utterance.seed for utterance in checkout.script.spoken] == [7]
    audio = decoded(answer.content)
    assert audio.codec == {"mp3": "mp3float", "wav": "pcm_s16le"}.get(response_format, response_format)
    assert audio.seconds == pytest.approx(spoken_seconds(checkout), abs=0.1)


@pytest.mark.parametrize("response_format", ["mp3", "opus"])
def test_a_streamed_answer_begins_like_its_file(checkout: Served, response_format: str) -> None:
    client = OpenAiTts(checkout)
    received = b""
    with httpx.stream("POST", client.url, json=client.body(TEXT, response_format), headers=AGENT, timeout=60) as answer:
        assert answer.headers["content-type"] == {"mp3": "audio/mpeg", "opus": "audio/opus"}[response_format]
        for piece in answer.iter_bytes(4096):
            received += piece
            if len(received) >= 1024:  # it waits for this much before it hands anything on
                break
    assert received.startswith({"mp3": b"\xff", "opus": b"OggS"}[response_format])


def test_pcm_has_the_rate_that_it_takes_for_granted(checkout: Served) -> None:
    client = OpenAiTts(checkout)
    answer = httpx.post(client.url, json=client.body(TEXT, "pcm"), headers=AGENT, timeout=PATIENCE_S)
    assert len(answer.content) / 2 / 24_000 == pytest.approx(spoken_seconds(checkout), abs=0.1)


def test_a_key_is_told_from_a_wrong_one(serve: Serve) -> None:
    client = OpenAiTts(serve(api_keys=("right",)))
    assert client.validate("right") == 400  # the key is fine, the text is not
    assert client.validate("wrong") == 401
    assert client.validate("right", "Hello.") == 200


# -- Wyoming


class Wyoming:
    """Does what the bridge does, with its environment as the page has it."""

    def __init__(self, server: Served) -> None:
        compose = yaml.safe_load(aimed(PAGE.block("Wyoming", "yaml"), server))
        self.environment: dict[str, str] = compose["services"]["wyoming_openai"]["environment"]
        self.client = AsyncOpenAI(
            base_url=self.environment["TTS_OPENAI_URL"], api_key=self.environment["TTS_OPENAI_KEY"]
        )

    async def speak(self, sentence: str, voice: str) -> tuple[int, bytes]:
        """Return the rate in the file's header and the samples, as it hands them on while they arrive."""
        request = self.client.audio.speech.with_streaming_response.create(
            model=self.environment["TTS_MODELS"], voice=voice, input=sentence, response_format="wav"
        )
        async with request as response:
            audio = b"".join([piece async for piece in response.iter_bytes(1024)])
        riff, _, wave, fmt, _, tag, channels, rate = struct.unpack("<4sI4s4sIHHI", audio[:28])
        assert (riff, wave, fmt, tag, channels, audio[36:40]) == (b"RIFF", b"WAVE", b"fmt ", 1, 1, b"data")
        return rate, audio[44:]


async def test_three_sentences_at_a_time(checkout: Served) -> None:
    bridge = Wyoming(checkout)
    sentences = ["The kitchen is warm.", "The door is open.", "Dinner is ready."]
    voice = bridge.environment["TTS_VOICES"].split()[0]
    async with bridge.client:
        answers = await asyncio.gather(*(bridge.speak(sentence, voice) for sentence in sentences))
    assert {rate for rate, _ in answers} == {44_100}
    total = sum(len(np.frombuffer(samples, np.int16)) for _, samples in answers)
    assert total / 44_100 == pytest.approx(spoken_seconds(checkout), abs=0.2)


async def test_every_voice_that_it_offers_speaks(checkout: Served) -> None:
    bridge = Wyoming(checkout)
    async with bridge.client:
        for voice in [*bridge.environment["TTS_VOICES"].split(), *OPENAI_VOICES]:
            assert (await bridge.speak("Hi.", voice))[1]


@pytest.mark.parametrize("path", ["/test", "/readyz"])
def test_it_is_not_taken_for_another_server(checkout: Served, path: str) -> None:
    # The bridge knows two other servers by these paths, and then speaks to them in their own way.
    url = Wyoming(checkout).environment["TTS_OPENAI_URL"]
    assert httpx.get(url + path).status_code == 404
    assert httpx.get(url.removesuffix("/v1") + "/health").text != "OK"
