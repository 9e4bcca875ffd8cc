"""ECHO_VOICE_BASE_URL: voices that every wire format finds in a bucket."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from echo.errors import ConfigError
from echo.runtime import Runtime
from echo.settings import Settings
from tests.bucket import Bucket, clip, open_bucket
from tests.contract.serving import PATIENCE_S, Serve, Served, wait_until
from tests.contract.twilio.phone import dial

TEXT = "Hello there."


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    with open_bucket() as opened:
        opened.put("support_de.wav", clip())
        yield opened


@pytest.fixture
def server(serve: Serve, bucket: Bucket, tmp_path: Path) -> Served:
    return serve(voice_base_url=bucket.url, cache_dir=tmp_path, voice_aliases=("alloy=support_de",))


def post(server: Served, path: str, body: object) -> httpx.Response:
    return httpx.post(server.url + path, json=body, timeout=PATIENCE_S, verify=False)


def openai(server: Served, voice: str) -> int:
    return post(server, "/v1/audio/speech", {"input": TEXT, "voice": voice}).status_code


def inworld(server: Served, voice: str) -> int:
    return post(server, "/tts/v1/voice", {"text": TEXT, "voiceId": voice}).status_code


def inworld_socket(server: Served, voice: str) -> int:
    with connect(f"{server.ws_url}/tts/v1/voice:streamBidirectional", proxy=None) as socket:
        socket.send(json.dumps({"contextId": "a", "create": {"voiceId": voice}}))
        answer = json.loads(socket.recv(PATIENCE_S))["result"]
        return 200 if "contextCreated" in answer else 404


def xtts(server: Served, voice: str) -> int:
    return post(server, "/tts_to_audio", {"text": TEXT, "speaker_wav": voice}).status_code


def chatterbox(server: Served, voice: str) -> int:
    return post(server, "/synthesize", {"text": TEXT, "voice_id": voice}).status_code


def chatterbox_socket(server: Served, voice: str) -> int:
    with connect(f"{server.ws_url}/ws/synthesize-stream", proxy=None) as socket:
        socket.send(json.dumps({"type": "init", "voice_id": voice}))
        return 200 if json.loads(socket.recv(PATIENCE_S)).get("type") == "ready" else 404


def chatterbox_preload(server: Served, voice: str) -> int:
    answer = post(server, "/preload", [voice]).json()
    assert answer["cache_stats"]["waveform_cache_size"] == 1  # that of support_de
    return 200 if answer["preloaded"][voice] else 404


def elevenlabs(server: Served, voice: str) -> int:
    return post(server, f"/v1/text-to-speech/{voice}", {"text": TEXT}).status_code


def elevenlabs_socket(server: Served, voice: str) -> int:
    try:
        with connect(f"{server.ws_url}/v1/text-to-speech/{voice}/multi-stream-input", proxy=None):
            return 200
    except InvalidStatus as refused:
        return refused.response.status_code


def omni_batch(server: Served, voice: str) -> int:
    answer = post(server, "/v1/audio/speech/batch", {"items": [{"input": TEXT}], "voice": voice}).json()
    return 200 if answer["succeeded"] == 1 else 404


def omni_socket(server: Served, voice: str) -> int:
    with connect(f"{server.ws_url}/v1/audio/speech/stream", proxy=None) as socket:
        socket.send(json.dumps({"type": "session.config", "voice": voice, "response_format": "pcm"}))
        return 404 if json.loads(socket.recv(PATIENCE_S))["type"] == "error" else 200


def twilio(server: Served, voice: str) -> int:
    with dial(server) as phone:
        phone.start(voice_id=voice, text=TEXT, close="true")
        return 200 if phone.closed() == 1000 else 404


ROUTES = [
    *(openai, inworld, inworld_socket, xtts, chatterbox, chatterbox_socket, chatterbox_preload),
    *(elevenlabs, elevenlabs_socket, omni_batch, omni_socket, twilio),
]


@pytest.mark.parametrize("route", ROUTES)
def test_every_wire_format_finds_it(server: Served, bucket: Bucket, route: Callable[[Served, str], int]) -> None:
    assert route(server, "support_de") == 200
    assert route(server, "nobody") in (400, 404)
    assert bucket.of("support_de") == ["support_de.wav"]
    assert openai(server, "support_de") == 200
    assert bucket.of("support_de") == ["support_de.wav"]


def test_names_and_aliases(server: Served, bucket: Bucket) -> None:
    assert openai(server, "alloy") == 200  # by its alias
    assert openai(server, "support_de.wav") == 200
    assert openai(server, "nova") == 200  # the default voice
    assert openai(server, "anna") == 200
    assert bucket.asked == ["/voices/support_de.wav"]
    for name in ("../secret", "a/b", "a b", "%2e%2e", "x" * 200, "a?b", "a#b", ".hidden"):
        assert openai(server, name) == 400
    assert bucket.asked == ["/voices/support_de.wav"]


def test_many_at_a_time_fetch_once(server: Served, bucket: Bucket) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: openai(server, "support_de"), range(8))) == {200}
    assert bucket.of("support_de") == ["support_de.wav"]


def test_it_is_still_there_after_a_restart_without_its_source(serve: Serve, bucket: Bucket, tmp_path: Path) -> None:
    assert openai(serve(voice_base_url=bucket.url, cache_dir=tmp_path), "support_de") == 200
    bucket.answers.clear()
    assert openai(serve(voice_base_url=bucket.url, cache_dir=tmp_path), "support_de") == 200
    assert bucket.of("support_de") == ["support_de.wav"]


def test_the_same_name_below_another_base_is_another_voice(serve: Serve, bucket: Bucket, tmp_path: Path) -> None:
    assert openai(serve(voice_base_url=bucket.url, cache_dir=tmp_path), "support_de") == 200
    assert openai(serve(voice_base_url=bucket.url + "/v2", cache_dir=tmp_path), "support_de") == 400


def test_a_slow_source_holds_no_slot_and_nobody_else(server: Served, bucket: Bucket) -> None:
    bucket.answers["/voices/slow.wav"] = bucket.stalled
    answers: list[int] = []
    asking = threading.Thread(target=lambda: answers.append(openai(server, "slow")))
    asking.start()
    wait_until(lambda: bool(bucket.of("slow")))
    assert server.open_requests == 0
    assert openai(server, "anna") == 200
    assert server.open_requests == 0
    bucket.over.set()  # it sends no more: four bytes are no clip
    asking.join(PATIENCE_S)
    assert answers == [400]


def test_what_went_wrong_is_the_operators_to_know(server: Served, serve: Serve, bucket: Bucket, tmp_path: Path) -> None:
    hasty = serve(voice_base_url=bucket.url, cache_dir=tmp_path / "hasty", voice_fetch_timeout_s=0.2)
    bucket.answers["/voices/slow.wav"] = bucket.stalled
    asked = ((hasty, "slow", "failed"), (server, "nobody", "missing"))
    answers = [post(served, "/v1/audio/speech", {"input": TEXT, "voice": voice}) for served, voice, _ in asked]
    assert [answer.status_code for answer in answers] == [503, 400]
    assert answers[0].json()["error"]["code"] == "voice_unavailable"
    assert int(answers[0].headers["Retry-After"]) > 0
    for answer in answers:
        assert str(bucket.port) not in answer.text
        assert "127.0.0.1" not in answer.text
    for served, _, outcome in asked:
        metrics = httpx.get(f"{served.url}/metrics", verify=False).text
        assert f'echo_voice_fetches_total{{outcome="{outcome}"}} 1.0' in metrics


def test_lists_show_what_lies_in_the_folders(server: Served) -> None:
    before = httpx.get(f"{server.url}/v1/voices", verify=False).json()
    assert openai(server, "support_de") == 200
    assert httpx.get(f"{server.url}/v1/voices", verify=False).json() == before


def test_it_is_off_by_default(serve: Serve, bucket: Bucket) -> None:
    assert Settings().voice_base_url == ""
    assert openai(serve(), "support_de") == 400
    assert bucket.asked == []


@pytest.mark.parametrize("base", ["ftp://example.com", "http://10.0.0.1/voices", "https://a:b@example.com/"])
def test_a_base_that_cannot_be_one_stops_the_start(base: str) -> None:
    with pytest.raises(ConfigError, match="ECHO_VOICE_BASE_URL="):
        Runtime(Settings(voice_base_url=base))


def test_the_default_voice_may_be_one(serve: Serve, bucket: Bucket, tmp_path: Path) -> None:
    server = serve(voice_base_url=bucket.url, cache_dir=tmp_path, default_voice="support_de")
    assert post(server, "/v1/audio/speech", {"input": TEXT}).status_code == 200
    assert bucket.of("support_de") == ["support_de.wav"]
