"""POST /v1/audio/speech/batch."""

from __future__ import annotations

import base64
import struct
import threading
from typing import Any

import httpx
import pytest

from tests.contract.cloning import clip
from tests.contract.docs.audio import decoded
from tests.contract.serving import PATIENCE_S, Gate, Serve, Served, wait_until

PATH = "/v1/audio/speech/batch"


def post(server: Served, items: Any, **defaults: Any) -> httpx.Response:
    body = {"items": items, **defaults}
    return httpx.post(server.url + PATH, json=body, timeout=PATIENCE_S, verify=False)


def results(server: Served, items: Any, **defaults: Any) -> list[dict[str, Any]]:
    answer = post(server, items, **{"voice": "anna", **defaults})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    found: list[dict[str, Any]] = body["results"]
    assert body["id"]
    assert [result["index"] for result in found] == list(range(len(items)))
    failed = sum(result["status"] == "error" for result in found)
    assert (body["total"], body["succeeded"], body["failed"]) == (len(items), len(items) - failed, failed)
    return found


def texts(count: int) -> list[dict[str, Any]]:
    return [{"input": f"This is number {number}."} for number in range(count)]


def test_every_item_is_a_whole_file(server: Served) -> None:
    found = results(server, [{"input": "Short."}, {"input": "This one is longer than that."}], model="echo-tts")
    for result, utterance in zip(found, sorted(server.script.spoken, key=lambda one: len(one.text)), strict=True):
        assert (result["status"], result["media_type"]) == ("success", "audio/wav")
        audio = base64.b64decode(result["audio_data"], validate=True)
        assert struct.unpack("<I", audio[40:44])[0] == len(audio) - 44
        seconds = (len(audio) - 44) / 2 / 44_100
        assert seconds == pytest.approx(len(utterance.text) * 0.06, abs=0.2)
        assert result["usage"]["output_tokens"] == pytest.approx(seconds / 0.0464, abs=2)
        assert result["usage"]["total_tokens"] == sum(list(result["usage"].values())[:2])


def test_an_item_may_differ_from_the_defaults(server: Served) -> None:
    items = [
        {"input": "One.", "response_format": "mp3", "seed": 5},
        {"input": "Two.", "voice": "bob", "response_format": None},
        {"input": "Three.", "extra_body": {"seed": 6}, "sample_rate": 8000},
    ]
    found = results(server, items, response_format="wav", seed=1, num_steps=3)
    assert [result["media_type"] for result in found] == ["audio/mpeg", "audio/wav", "audio/wav"]
    assert decoded(base64.b64decode(found[2]["audio_data"])).sample_rate == 8_000
    assert {one.text.removeprefix("[S1] "): one.seed for one in server.script.spoken} == {
        "One.": 5,
        "Two.": 1,
        "Three.": 6,
    }
    assert {block.steps for one in server.script.spoken for block in one.plan.blocks} == {3}


def test_a_recording_may_be_the_voice_of_all(server: Served) -> None:
    recording = base64.b64encode(clip(seconds=2.0)).decode()
    results(server, [*texts(2), {"input": "Another voice.", "voice": "anna"}], ref_audio=recording, ref_text="x")
    sizes = {one.text: one.voice.nbytes for one in server.script.spoken if one.voice is not None}
    assert sizes.pop("[S1] Another voice.") == 441
    assert list(sizes.values()) == [882, 882]


def test_a_wrong_item_costs_only_itself(server: Served) -> None:
    wrong: list[dict[str, Any]] = [
        {},
        {"input": " "},
        {"input": "x" * 5000},
        {"input": "Hi.", "voice": "nobody"},
        {"input": "Hi.", "speed": 9},
        {"input": "Hi.", "response_format": "ogg"},
        {"input": "Hi.", "ref_audio": "file:///etc/passwd"},
        {"input": 5},
    ]
    found = results(server, [{"input": "Good."}, *wrong])
    assert found[0]["status"] == "success"
    assert [result["status"] for result in found[1:]] == ["error"] * len(wrong)
    named = ["input", "input", "input", "nobody", "speed", "response_format", "ref_audio", "input"]
    for result, name in zip(found[1:], named, strict=True):
        assert name in result["error"]
        assert result["code"]
        assert "audio_data" not in result
    assert len(server.script.spoken) == 1


def test_a_failure_costs_only_its_item(server: Served) -> None:
    server.script.max_text = 30
    found = results(server, [{"input": "Fine."}, {"input": "This is too long for the engine to prepare."}])
    assert [result["status"] for result in found] == ["success", "error"]


def test_items_are_spoken_at_the_same_time(server: Served) -> None:
    server.script.render = gate = Gate()
    answers: list[list[dict[str, Any]]] = []
    caller = threading.Thread(target=lambda: answers.append(results(server, texts(8))))
    caller.start()
    wait_until(lambda: len(server.script.spoken) == 8)
    gate.open()
    caller.join(PATIENCE_S)
    assert not gate.expired
    assert [result["status"] for result in answers[0]] == ["success"] * 8


def test_a_batch_leaves_slots_to_the_other_requests_of_its_client(serve: Serve) -> None:
    server = serve(max_concurrent=2, max_queue=6, client_share=1.0)
    server.script.render = gate = Gate()
    answers: list[list[dict[str, Any]]] = []
    caller = threading.Thread(target=lambda: answers.append(results(server, texts(12))))
    caller.start()
    wait_until(lambda: server.open_requests == 4)
    gate.open()
    caller.join(PATIENCE_S)
    assert [result["status"] for result in answers[0]] == ["success"] * 12
    assert len(server.script.spoken) == 12


def test_a_batch_goes_on_with_the_slots_that_it_gets(serve: Serve) -> None:
    server = serve(max_concurrent=1, max_queue=3, client_share=1.0)
    tickets = [server.runtime.service.admission.enter() for _ in range(3)]
    assert [result["status"] for result in results(server, texts(6))] == ["success"] * 6
    for ticket in tickets:
        ticket.release()


def test_a_batch_of_which_nothing_can_be_spoken_now_is_429(server: Served) -> None:
    server.script.refuse = True
    answer = post(server, texts(3), voice="anna")
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) >= 1
    assert answer.json()["error"]["code"] == "queue_full"
    server.script.refuse = False


def test_the_whole_answer_is_limited(serve: Serve) -> None:
    server = serve(max_whole_bytes=300_000)
    found = results(server, texts(6), response_format="pcm")
    sizes = [len(base64.b64decode(result.get("audio_data", ""))) for result in found]
    assert 0 < sum(sizes) <= 300_000
    assert {result["status"] for result in found} == {"success", "error"}
    assert all("sent in one piece" in result["error"] for result in found if result["status"] == "error")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "items"),
        ({"items": []}, "items"),
        ({"items": texts(33)}, "items"),
        ({"items": "Hello."}, "items"),
        ({"items": ["Hello."]}, "items"),
        ({"items": texts(1), "speed": 9}, "speed"),
        ({"items": texts(1), "extra_body": 5}, "extra_body"),
        ([], None),
    ],
)
def test_a_wrong_batch_is_refused(server: Served, body: Any, param: str | None) -> None:
    answer = httpx.post(server.url + PATH, json=body, timeout=PATIENCE_S, verify=False)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert server.script.spoken == []


def test_a_client_that_leaves_frees_all_slots(server: Served) -> None:
    server.script.render = gate = Gate()
    body = {"items": [{"input": "word " * 60}] * 6, "voice": "anna", "block_sizes": [8, 8, 8]}
    with server.send(body, PATH):
        wait_until(lambda: len(server.script.spoken) == 6)
        assert server.open_requests == 6
    server.wait_idle()
    gate.open()
    wait_until(lambda: len(server.script.cancelled) == 6)


def test_the_route_can_be_switched_off(serve: Serve) -> None:
    assert post(serve(omni_compat=False), texts(1)).status_code in (404, 405)
