"""SillyTavern with the settings of docs/integrations/sillytavern.md: the requests of its server and of its page."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlencode

import httpx
import pytest

from tests.contract.docs.audio import decoded
from tests.contract.docs.pages import Page, aimed
from tests.contract.serving import PATIENCE_S, Served, serving

PAGE = Page("sillytavern")
COMPATIBLE, XTTS = "OpenAI Compatible", "XTTSv2"
#: Where SillyTavern's own page is.
ORIGIN = "http://127.0.0.1:8000"
#: What its page sends with every call of an external TTS server.
HEADERS = {"Origin": ORIGIN, "Bypass-Tunnel-Reminder": "bypass", "Cache-Control": "no-cache"}


@pytest.fixture(scope="module", params=[COMPATIBLE, XTTS])
def started(request: pytest.FixtureRequest) -> Iterator[Served]:
    with serving(PAGE.server_settings(request.param)) as served:
        yield served


@pytest.fixture(scope="module")
def xtts() -> Iterator[Served]:
    with serving(PAGE.server_settings(XTTS)) as served:
        yield served


def endpoint(heading: str, server: Served) -> str:
    return aimed(PAGE.settings(heading)["Provider Endpoint"], server)


@pytest.mark.parametrize("heading", [COMPATIBLE, XTTS])
def test_the_two_do_not_meet_on_one_port(heading: str) -> None:
    settings = PAGE.server_settings(heading)
    assert f"{settings.host}:{settings.port}" in PAGE.settings(heading)["Provider Endpoint"]
    assert f"{settings.host}:{settings.port}" not in ORIGIN


def test_every_voice_speaks_through_its_server(started: Served) -> None:
    settings = PAGE.settings(COMPATIBLE)
    for voice in settings["Available Voices"].split(","):
        body = {
            "input": '"Hello!" *she waves* How are you?',
            "response_format": "mp3",
            "voice": voice,
            "speed": float(settings["Speed"]),
            "model": settings["Model"],
        }
        key = {"Authorization": f"Bearer {settings['API Key']}"}
        answer = httpx.post(endpoint(COMPATIBLE, started), json=body, headers=key, timeout=PATIENCE_S)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "audio/mpeg")
        assert decoded(answer.content).codec == "mp3float"
        assert "waves" not in started.script.spoken[-1].text


def test_a_refusal_can_be_read(started: Served) -> None:
    body = {"input": "Hello!", "response_format": "mp3", "voice": "nobody", "speed": 1, "model": "tts-1"}
    answer = httpx.post(endpoint(COMPATIBLE, started), json=body)
    assert (answer.status_code, "nobody" in answer.text) == (400, True)


def test_the_page_may_ask_before_it_posts(xtts: Served) -> None:
    asked = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,bypass-tunnel-reminder,cache-control,content-type",
    }
    for path in ("/tts_to_audio/", "/set_tts_settings"):
        answer = httpx.options(endpoint(XTTS, xtts) + path, headers=asked)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        allowed = answer.headers["access-control-allow-headers"].lower()
        assert all(name in allowed for name in asked["Access-Control-Request-Headers"].split(","))


def test_the_page_may_read_what_it_gets(xtts: Served) -> None:
    with httpx.Client(base_url=endpoint(XTTS, xtts), headers=HEADERS, timeout=PATIENCE_S) as page:
        speakers = page.get("/speakers")
        voices = {speaker["name"]: speaker["voice_id"] for speaker in speakers.json()}
        language = PAGE.settings(XTTS)["Language"]
        body = {"text": "Hello! How are you?", "speaker_wav": voices["tiny_anna"], "language": language}
        spoken = page.post("/tts_to_audio/", json=body)
        answers = [speakers, spoken, page.post("/set_tts_settings", json={"temperature": 0.75, "speed": 1})]
    for answer in answers:
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, ORIGIN)
    assert decoded(spoken.content).codec == "pcm_s16le"


def test_the_page_plays_a_stream_by_its_address(xtts: Served) -> None:
    assert PAGE.settings(XTTS)["Streaming"] == "on"
    query = urlencode({"text": "He said yes & left.", "speaker_wav": "tiny_beth", "language": "en"})
    answer = httpx.get(f"{endpoint(XTTS, xtts)}/tts_stream/?{query}", headers={"Range": "bytes=0-"}, timeout=PATIENCE_S)
    assert (answer.status_code, answer.headers["content-type"], answer.content[:4]) == (200, "audio/wav", b"RIFF")
