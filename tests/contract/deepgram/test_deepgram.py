"""WS /v1/speak, message by message."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.contract.docs.audio import spoken_seconds
from tests.contract.serving import PATIENCE_S, Gate, Serve, Served, wait_until


class Socket:
    """A connection to the socket."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    def send(self, type: str, **fields: object) -> None:
        self.connection.send(json.dumps({"type": type, **fields}))

    def speak(self, *pieces: str) -> None:
        for piece in pieces:
            self.send("Speak", text=piece)

    def until(self, type: str) -> tuple[bytes, dict[str, Any]]:
        """Return the audio up to a message of this type, and the message; none of another type may come."""
        audio = b""
        while isinstance(message := self.connection.recv(timeout=PATIENCE_S), bytes):
            audio += message
        value: dict[str, Any] = json.loads(message)
        assert value["type"] == type, value
        return audio, value


@contextmanager
def opened(server: Served, query: str = "model=anna", **options: Any) -> Iterator[Socket]:
    with connect(f"{server.ws_url}/v1/speak?{query}", open_timeout=PATIENCE_S, proxy=None, **options) as connection:
        socket = Socket(connection)
        assert socket.until("Metadata")[1]["request_id"]
        yield socket


def spoken(server: Served) -> list[str]:
    return [utterance.text.removeprefix("[S1] ") for utterance in server.script.spoken]


def test_a_turn_ends_with_its_flush(server: Served) -> None:
    with opened(server, "model=bob&encoding=linear16&sample_rate=16000") as socket:
        for turn in range(2):
            socket.speak("Well,", " it", " has", " stopped.", " We", " can", " go")
            socket.send("Flush")
            audio, flushed = socket.until("Flushed")
            assert flushed["sequence_id"] == turn
            assert len(audio) % 2 == 0
            assert spoken(server)[3 * turn :] == ["Well,", "it has stopped.", "We can go"]
        assert len(audio) / 2 / 16_000 == pytest.approx(spoken_seconds(server) / 2, abs=0.8)
        socket.send("Flush")
        assert socket.until("Flushed")[0] == b""


@pytest.mark.parametrize(
    ("encoding", "rate", "width"), [("linear16", 24_000, 2), ("mulaw", 8_000, 1), ("alaw", 8_000, 1)]
)
def test_encodings_have_deepgrams_default_rates(server: Served, encoding: str, rate: int, width: int) -> None:
    with opened(server, f"model=anna&encoding={encoding}&mip_opt_out=true") as socket:
        socket.speak("Hello there.")
        socket.send("Flush")
        audio, _ = socket.until("Flushed")
        assert len(audio) / width / rate == pytest.approx(spoken_seconds(server), abs=0.15)


def test_closing_speaks_the_rest_and_ends_the_connection(server: Served) -> None:
    with opened(server) as socket:
        socket.speak("The rest of it")
        socket.send("Close")
        audio = b"".join(cast(bytes, piece) for piece in socket.connection)
        assert len(audio) > 10_000
        assert socket.connection.close_code == 1000
        assert spoken(server) == ["The rest of it"]


@pytest.mark.parametrize("block", [0, 1])
def test_a_clear_stops_at_once_and_drops_the_flushes_that_wait(server: Served, block: int) -> None:
    server.script.render = gate = Gate(block)
    with opened(server) as socket:
        socket.speak("word " * 60)
        socket.send("Flush")
        socket.speak("Never spoken.")
        socket.send("Flush")
        assert gate.reached.wait(PATIENCE_S)
        socket.send("Clear")
        socket.until("Cleared")
        assert server.open_requests == 0
        gate.open()
        wait_until(lambda: len(server.script.cancelled) == 1)
        socket.speak("I am listening.")
        socket.send("Flush")
        audio, flushed = socket.until("Flushed")
        assert audio
        assert flushed["sequence_id"] == 0
    assert "Never spoken." not in spoken(server)


def test_a_client_that_leaves_takes_its_work_along(server: Served) -> None:
    server.script.render = gate = Gate()
    with opened(server) as socket:
        socket.speak("word " * 60)
        socket.send("Flush")
        assert gate.reached.wait(PATIENCE_S)
    wait_until(lambda: server.open_requests == 0)
    gate.open()


@pytest.mark.parametrize("frame", ["", "{", "[]", '{"type":"Hello"}', '{"type":"Speak"}', '{"type":"Speak","text":5}'])
def test_a_mistake_is_a_warning_and_the_connection_stays(server: Served, frame: str) -> None:
    with opened(server) as socket:
        socket.connection.send(frame)
        assert socket.until("Warning")[1]["description"]
        socket.speak("Hello.")
        socket.send("Flush")
        assert socket.until("Flushed")[0]


def test_a_failure_is_a_warning_and_the_turn_ends(server: Served) -> None:
    server.script.fail_before = True
    with opened(server) as socket:
        socket.speak("Fails.")
        socket.send("Flush")
        assert socket.until("Warning")[1]["description"] == "Generation failed."
        socket.until("Flushed")


def test_too_many_turns_are_refused(server: Served) -> None:
    server.script.render = gate = Gate()
    with opened(server) as socket:
        for _ in range(22):
            socket.speak("Hello.")
            socket.send("Flush")
        assert socket.until("Warning")[1]["code"] == "queue_full"
        gate.open()


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("model=nobody", "nobody"),
        ("model=..%2Fanna", "anna"),
        ("model=anna&encoding=opus", "encoding"),
        ("model=anna&sample_rate=1", "sample_rate"),
        ("model=anna&speed=fast", "speed"),
    ],
)
def test_a_wrong_query_is_refused_with_deepgrams_error(server: Served, query: str, named: str) -> None:
    with pytest.raises(InvalidStatus) as caught, opened(server, query):
        pass
    response = caught.value.response
    assert response.status_code == 400
    assert named in json.loads(response.body or b"")["err_msg"]
    assert named in response.headers["dg-error"]


def test_the_key_comes_as_a_token(serve: Serve) -> None:
    server = serve(api_keys=("k-1",))
    with pytest.raises(InvalidStatus) as caught, opened(server, additional_headers={"Authorization": "Token no"}):
        pass
    assert caught.value.response.status_code == 401
    with opened(server, additional_headers={"Authorization": "Token k-1"}):
        pass


def test_the_socket_can_be_switched_off(serve: Serve) -> None:
    with pytest.raises(InvalidStatus), opened(serve(deepgram_compat=False)):
        pass


MESSAGES = st.lists(
    st.sampled_from(["One, two.", " three", " four. ", "Flush", "Flush", "Clear", "{", "nonsense"]), max_size=10
)


@settings(max_examples=25, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(messages=MESSAGES)
def test_any_messages_in_any_order_are_answered_and_the_last_turn_is_spoken(
    server: Served, messages: list[str]
) -> None:
    server.script.audio_s_per_char = 0.01
    server.script.spoken.clear()
    with opened(server) as socket:
        for message in messages:
            if message in ("Flush", "Clear", "nonsense"):
                socket.send(message)
            elif message == "{":
                socket.connection.send(message)
            else:
                socket.speak(message)
        socket.send("Clear")  # what came before it may or may not have been spoken
        cleared, flushes = 0, 0
        while cleared <= messages.count("Clear"):
            answer = socket.connection.recv(timeout=PATIENCE_S)
            kind = "audio" if isinstance(answer, bytes) else json.loads(answer)["type"]
            cleared += kind == "Cleared"
            flushes += kind == "Flushed"
        assert flushes <= messages.count("Flush")
        before = len(server.script.spoken)
        socket.speak("The last", " turn")
        socket.send("Flush")
        audio, flushed = socket.until("Flushed")
        assert audio
        assert flushed["sequence_id"] == flushes
        assert spoken(server)[before:] == ["The last turn"]
