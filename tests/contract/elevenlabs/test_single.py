"""WS /v1/text-to-speech/{voice_id}/stream-input."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from websockets.exceptions import ConnectionClosed

from tests.contract.elevenlabs.calls import Socket, aligned, audio_of, single
from tests.contract.serving import PATIENCE_S, Gate, Served, wait_until


@pytest.fixture
def socket(server: Served) -> Iterator[Socket]:
    with single(server) as opened:
        yield opened


def spoken(server: Served) -> list[str]:
    return [utterance.text.removeprefix("[S1] ") for utterance in server.script.spoken]


def test_a_text_is_spoken_and_the_socket_closed(server: Served, socket: Socket) -> None:
    socket.send(text=" ", voice_settings={"stability": 0.5}, generation_config={"chunk_length_schedule": [50]})
    socket.send(text="The rain has ", try_trigger_generation=True)
    socket.send(text="stopped. ", flush=True)
    socket.send(text=" ")  # a keep-alive
    socket.send(text="")
    messages, code = socket.rest()
    assert code == 1000
    assert messages[-1] == {"audio": None, "isFinal": True, "is_final": True}
    assert all(message["isFinal"] is False for message in messages[:-1])
    assert not any("message" in message or "contextId" in message for message in messages)
    assert aligned(messages).text == "The rain has stopped. "
    assert len(audio_of(messages)) / 48_000 == pytest.approx(aligned(messages).end_ms / 1000, abs=0.13)
    assert spoken(server) == ["The rain has stopped."]


def test_an_empty_text_alone_is_an_empty_answer(socket: Socket) -> None:
    socket.send(text="")
    messages, code = socket.rest()
    assert (len(messages), messages[0]["isFinal"], code) == (1, True, 1000)


def test_the_rest_is_spoken_at_the_end_of_the_input(server: Served, socket: Socket) -> None:
    server.script.render = gate = Gate()  # until all is spoken, the socket is open
    for piece in ("No end ", "of a sen", "tence"):
        socket.send(text=piece)
    socket.send(text="")
    socket.send(text="Too late. ")
    gate.open()
    messages, code = socket.rest()
    assert (aligned(messages).text, code) == ("No end of a sentence ", 1000)
    assert spoken(server) == ["No end of a sentence"]


def test_speaking_begins_before_the_input_ends(server: Served, socket: Socket) -> None:
    socket.send(text="The first clause, ", try_trigger_generation=True)
    assert socket.receive()["audio"]
    socket.send(text="and the rest.")
    socket.send(text="")
    assert socket.rest()[1] == 1000
    assert spoken(server) == ["The first clause,", "and the rest."]


def test_a_client_that_hangs_up_stops_the_speech(server: Served) -> None:
    server.script.render = gate = Gate(block=1)
    with single(server) as socket:
        socket.send(text="This sentence goes on and on, " * 5, flush=True)
        assert gate.reached.wait(PATIENCE_S)
    server.wait_idle()
    assert not gate.expired
    gate.open()
    wait_until(lambda: len(server.script.cancelled) == 1)


@pytest.mark.parametrize(
    ("message", "named"),
    [
        ("{", "JSON"),
        ("[]", "object"),
        ({"text": 5}, "text"),
        ({"voice_settings": {"speed": 9}}, "voice_settings.speed"),
    ],
)
def test_a_wrong_message_ends_the_answer(server: Served, socket: Socket, message: object, named: str) -> None:
    server.script.render = gate = Gate(block=1)
    socket.send(text="This sentence goes on and on, " * 5, flush=True)
    assert gate.reached.wait(PATIENCE_S)
    socket.send(message)
    with contextlib.suppress(ConnectionClosed):  # it may be closed by then
        socket.send(text="Too late. ", flush=True)
    messages, code = socket.rest()
    assert (code, messages[-1]["code"]) == (1008, 1008)
    assert named in messages[-1]["message"]
    assert not any(message.get("isFinal") for message in messages)
    server.wait_idle()
    gate.open()


def test_a_failure_ends_the_answer(server: Served, socket: Socket) -> None:
    server.script.fail_before = True
    socket.send(text="Hello. ", flush=True)
    messages, code = socket.rest()
    assert ([message.get("error") for message in messages], code) == (["generation_failed"], 1011)
