"""POST /v1/text-to-speech/{voice_id} and what hangs below it."""

from __future__ import annotations

import base64
import json

import httpx
import pytest

from echo.engines.fake import FakeScript
from tests.contract.docs.audio import decoded, spoken_seconds
from tests.contract.elevenlabs.calls import Json, path, post
from tests.contract.serving import PATIENCE_S, Gate, Served

ROUTES = ["", "/stream", "/with-timestamps", "/stream/with-timestamps"]
TEXT = "Hello there. How are you today?"
every_route = pytest.mark.parametrize("rest", ROUTES)


def lines(answer: httpx.Response) -> list[Json]:
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def check_times(alignment: Json, text: str, seconds: float) -> None:
    """Check that the characters are the text's and that their spans cover the audio."""
    starts, ends = alignment["character_start_times_seconds"], alignment["character_end_times_seconds"]
    assert "".join(alignment["characters"]) == text
    assert len(starts) == len(ends) == len(text)
    assert (starts[0], ends[:-1]) == (0, starts[1:])
    assert ends[-1] == pytest.approx(seconds, abs=0.002)
    assert starts == sorted(starts)


@pytest.mark.parametrize("rest", ["", "/stream"])
def test_the_default_is_mp3_of_128_kbit(server: Served, rest: str) -> None:
    answer = post(server, path(rest), {"text": TEXT})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "audio/mpeg")
    audio = decoded(answer.content)
    assert (audio.codec, audio.sample_rate) == ("mp3float", 44_100)
    assert len(answer.content) * 8 / audio.seconds == pytest.approx(128_000, rel=0.03)
    assert ("content-length" in answer.headers) == (rest == "")


@pytest.mark.parametrize(
    ("name", "media_type", "bytes_per_s"),
    [
        ("pcm_16000", "audio/pcm", 32_000),
        ("pcm_48000", "audio/pcm", 96_000),
        ("ulaw_8000", "audio/basic", 8_000),
        ("alaw_8000", "audio/pcma", 8_000),
        ("mp3_22050_32", "audio/mpeg", 4_000),
        ("opus_48000_64", "audio/opus", None),
    ],
)
def test_formats_have_their_names(server: Served, name: str, media_type: str, bytes_per_s: int | None) -> None:
    answer = post(server, path("/stream", output_format=name), {"text": TEXT})
    assert (answer.status_code, answer.headers["content-type"]) == (200, media_type)
    assert answer.headers["x-audio-sample-rate"] == name.split("_")[1]
    if bytes_per_s:
        assert len(answer.content) / bytes_per_s == pytest.approx(spoken_seconds(server), abs=0.15)


def test_times_come_with_the_whole_file(server: Served) -> None:
    (answer,) = lines(post(server, path("/with-timestamps", output_format="pcm_24000"), {"text": TEXT}))
    audio = base64.b64decode(answer["audio_base64"], validate=True)
    assert answer["normalized_alignment"] == answer["alignment"]
    check_times(answer["alignment"], TEXT, len(audio) / 48_000)


def test_times_come_with_the_last_line(server: Served) -> None:
    answers = lines(post(server, path("/stream/with-timestamps", output_format="pcm_24000"), {"text": TEXT}))
    pieces = [base64.b64decode(answer["audio_base64"], validate=True) for answer in answers]
    assert all(piece and len(piece) % 2 == 0 for piece in pieces)
    assert [answer["alignment"] is None for answer in answers] == [True] * (len(answers) - 1) + [False]
    check_times(answers[-1]["alignment"], TEXT, sum(map(len, pieces)) / 48_000)


@every_route
def test_a_text_with_nothing_to_speak_is_a_short_silence(server: Served, rest: str) -> None:
    assert post(server, path(rest), {"text": "*sighs*"}).status_code == 200
    assert not server.script.spoken


def test_audio_is_sent_while_it_is_made(server: Served) -> None:
    server.script.render = gate = Gate(block=1)
    url = server.url + path("/stream", output_format="pcm_24000")
    body = {"text": "This sentence goes on and on, " * 5}
    with httpx.stream("POST", url, json=body, timeout=PATIENCE_S, verify=False) as answer:
        pieces = answer.iter_bytes()
        assert next(pieces)
        assert not gate.expired
        gate.open()
        assert list(pieces)


@every_route
@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "text"),
        ({"text": ""}, "text"),
        ({"text": "x" * 5000}, "text"),
        ({"text": 5}, "text"),
        ({"text": "Hi.", "seed": "x"}, "seed"),
        ({"text": "Hi.", "voice_settings": {"speed": 5}}, "voice_settings.speed"),
        ({"text": "Hi.", "voice_settings": "x"}, "voice_settings"),
        ({"text": "Hi.", "num_steps": 0}, "num_steps"),
        ([], "object"),
    ],
)
def test_a_wrong_body_is_refused_and_named(server: Served, rest: str, body: object, named: str) -> None:
    answer = post(server, path(rest), body)
    assert answer.status_code == 400
    assert sorted(answer.json()["detail"]) == ["message", "status"]
    assert named in answer.json()["detail"]["message"]
    assert not server.script.spoken


@every_route
def test_an_unknown_format_or_voice_is_refused(server: Served, rest: str) -> None:
    answer = post(server, path(rest, output_format="mp3_1_1"), {"text": TEXT})
    assert (answer.status_code, answer.json()["detail"]["status"]) == (400, "unsupported_format")
    assert "mp3_44100_128" in answer.json()["detail"]["message"]
    answer = post(server, path(rest, "nobody"), {"text": TEXT})
    assert (answer.status_code, answer.json()["detail"]["status"]) == (404, "voice_not_found")


def test_null_is_the_same_as_absent(server: Served) -> None:
    body = {"text": TEXT, "model_id": None, "voice_settings": None, "seed": None, "language_code": None}
    assert post(server, path(""), body).status_code == 200


@every_route
def test_a_failure_before_the_first_byte_has_a_status(server: Served, rest: str) -> None:
    server.script.fail_before = True
    answer = post(server, path(rest), {"text": TEXT})
    assert (answer.status_code, answer.json()["detail"]["status"]) == (500, "generation_failed")


@pytest.mark.parametrize("rest", ["/stream", "/stream/with-timestamps"])
def test_a_later_failure_breaks_the_answer_off(server: Served, rest: str) -> None:
    server.engine.script = FakeScript(fail_after_blocks=1, audio_s_per_char=1)
    with pytest.raises(httpx.RemoteProtocolError):
        post(server, path(rest), {"text": TEXT})


def test_the_list_of_voices_serves_both_kinds_of_clients(server: Served) -> None:
    listed = httpx.get(f"{server.url}/v1/voices", verify=False).json()
    assert [voice["voice_id"] for voice in listed["voices"]] == [voice["id"] for voice in listed["data"]]
    found = httpx.get(f"{server.url}/v2/voices?search=OLD", verify=False).json()
    assert found["voices"] == [{"voice_id": "Old Man", "name": "Old Man", "category": "premade"}]
    assert (found["has_more"], found["total_count"]) == (False, 1)
