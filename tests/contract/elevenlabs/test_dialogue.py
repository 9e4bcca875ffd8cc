"""WS /v1/text-to-dialogue/multi-stream-input, and the same over HTTP."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from websockets.sync.client import connect

from tests.contract.elevenlabs.calls import Json, Socket, audio_of, post
from tests.contract.serving import PATIENCE_S, Gate, Served, wait_until

PATH = "/v1/text-to-dialogue"


@pytest.fixture
def socket(server: Served) -> Iterator[Socket]:
    with connect(f"{server.ws_url}{PATH}/multi-stream-input?output_format=pcm_24000") as connection:
        yield Socket(connection)


def line(text: str, voice: str = "anna") -> Json:
    return {"text": text, "voice_id": voice, "new_turn": False}


def until_final(socket: Socket) -> list[Json]:
    messages = [socket.receive()]
    while not messages[-1].get("is_final"):
        messages.append(socket.receive())
    return messages


def spoken(server: Served) -> list[str]:
    return [utterance.text.removeprefix("[S1] ") for utterance in server.script.spoken]


def test_a_context_speaks_with_its_times(server: Served, socket: Socket) -> None:
    socket.send(context_id="k", voices=["bob"])
    socket.send(context_id="k", keep_alive=True)
    socket.send(context_id="c", voices=["anna"], voice_settings={"stability": 0.5})
    socket.send(context_id="c", inputs=[line("Hello there. "), line("How are ")])
    socket.send(context_id="c", inputs=[line("you? ")], flush=True)
    socket.send(context_id="c", inputs=[line("And the rest.")])
    socket.send(context_id="c", close_context=True)  # speaks the rest
    *messages, final = until_final(socket)
    assert final == {"context_id": "c", "audio": None, "is_final": True}
    assert spoken(server) == ["Hello there.", "How are you?", "And the rest."]
    timed = [message for message in messages if message["alignment"]]
    assert "".join("".join(m["alignment"]["chars"]) for m in timed) == "Hello there. How are you? And the rest. "
    for message in timed:
        assert message["audio"]
        starts, durations = (message["alignment"][f"char_{key}_ms"] for key in ("start_times", "durations"))
        assert starts[0] == 0
        span = starts[-1] + durations[-1]
        assert span == pytest.approx(len(audio_of([message])) / 48, abs=130)


def test_a_second_close_stops_at_once(server: Served, socket: Socket) -> None:
    server.script.render = gate = Gate(block=1)
    socket.send(context_id="c", voices=["anna"], inputs=[line("This sentence goes on and on, " * 5)], flush=True)
    socket.send(context_id="c", close_context=True)
    assert gate.reached.wait(PATIENCE_S)
    socket.send(context_id="c", close_context=True)
    until_final(socket)
    assert not gate.expired
    gate.open()
    wait_until(lambda: len(server.script.cancelled) == 1)


@pytest.mark.parametrize(
    ("message", "named"),
    [
        ({"voices": ["nobody"]}, "nobody"),
        ({"voices": ["anna", "bob"]}, "voices"),
        ({"inputs": [line("Hello. "), line("Hello. ", "bob")]}, "voice"),
        ({"inputs": "Hello."}, "inputs"),
        ({"inputs": [{"text": "Hello."}]}, "inputs.0.voice_id"),
    ],
)
def test_a_wrong_message_is_answered(server: Served, socket: Socket, message: Json, named: str) -> None:
    socket.send(context_id="c", **message)
    answer = socket.receive()
    assert (answer["context_id"], named in answer["message"]) == ("c", True)
    socket.send(context_id="d", inputs=[line("Hello. ")], flush=True)
    socket.send(context_id="d", inputs=[line("Hello. ", "bob")])
    socket.send(context_id="d", close_context=True)
    messages = until_final(socket)
    assert [message["error"] for message in messages if "error" in message] == ["settings_not_allowed"]
    assert spoken(server) == ["Hello."]


@pytest.mark.parametrize("rest", ["", "/stream"])
def test_over_http(server: Served, rest: str) -> None:
    address = f"{PATH}{rest}?output_format=pcm_24000"
    answer = post(server, address, {"inputs": [line("Hello there."), line("How are you?")], "model_id": "eleven_v3"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "audio/pcm")
    assert spoken(server) == ["Hello there. How are you?"]
    refused = post(server, address, {"inputs": [line("Hello."), line("Hello.", "bob")]})
    assert (refused.status_code, refused.json()["detail"]["status"]) == (400, "invalid_value")
    assert post(server, address, {"inputs": []}).json()["detail"]["message"].startswith("inputs")
