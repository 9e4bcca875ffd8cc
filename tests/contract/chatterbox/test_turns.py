"""WS /ws/synthesize-stream: text in pieces, turn after turn on one connection."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from websockets.exceptions import InvalidStatus

from compat.chatterbox.turns import MAX_TURNS
from echo.audio.frames import FRAME_BYTES
from tests.contract.chatterbox.calls import TURNS, Socket, kinds, open_socket, pieces
from tests.contract.serving import PATIENCE_S, Gate, Serve, Served, wait_until

TEXT = "The first sentence is here. The second one, which is longer, follows it at once. And a rest"
ERROR = "Session not initialized"


@pytest.fixture
def socket(server: Served) -> Iterator[Socket]:
    with open_socket(server, TURNS) as opened:
        yield opened


def spoken(server: Served) -> list[str]:
    return [utterance.text.removeprefix("[S1] ") for utterance in server.script.spoken]


def say(socket: Socket, *texts: str) -> None:
    for text in texts:
        socket.send({"type": "text", "content": text})


def test_a_turn(socket: Socket) -> None:
    ready = socket.begin("anna")
    assert (ready["type"], ready["voice_id"], ready["preset"]) == ("ready", "anna", "adaptive")
    assert ready["message"]
    say(socket, *(TEXT[start : start + 5] for start in range(0, len(TEXT), 5)))
    socket.send({"type": "end"})
    messages = socket.until("complete")
    audio = [message for message in messages if message["type"] == "audio"]
    assert all(m.keys() == {"type", "audio", "chunk_index", "format", "sample_rate"} for m in audio)
    assert [message["chunk_index"] for message in audio] == list(range(len(audio)))
    assert all(len(piece) == FRAME_BYTES for piece in pieces(audio))
    early = [message["chunks_in_sentence"] for message in messages if message["type"] == "sentence_complete"]
    assert kinds(messages) == ["audio", "sentence_complete"] * len(early) + ["audio", "complete"]
    assert len(early) >= 2
    assert all(early)
    assert sum(early) < len(audio)
    assert messages[-1]["total_chunks"] == len(audio)
    assert messages[-1]["total_ms"] >= 0


@pytest.mark.parametrize(
    ("pieces", "said"),
    [
        (["Too short. ", "No"], ["Too short. No"]),
        (["Fourteen char?", " Yes"], ["Fourteen char?", "Yes"]),  # with the blank there are fifteen
        (["It has rained. It st", "opped."], ["It has rained.", "It stopped."]),
        (["With a comma, here", " I am"], ["With a comma, here I am"]),
        (["A clause that is long, and half a wo", "rd"], ["A clause that is long,", "and half a word"]),
        (["This costs 3.", "5 dollars, as Mr.", " Smith says"], ["This costs 3.5 dollars,", "as Mr. Smith says"]),
    ],
)
def test_early_speech_ends_at_a_mark_and_keeps_the_rest(
    server: Served, socket: Socket, pieces: list[str], said: list[str]
) -> None:
    socket.begin()
    say(socket, *pieces)
    socket.send({"type": "end"})
    messages = socket.until("complete")
    assert spoken(server) == said
    assert kinds(messages).count("sentence_complete") == len(said) - 1


def test_speech_begins_before_the_end(socket: Socket) -> None:
    socket.begin()
    say(socket, "This is a whole sentence. And")
    assert kinds(socket.until("sentence_complete")) == ["audio", "sentence_complete"]


def test_a_message_without_a_type_is_text(server: Served, socket: Socket) -> None:
    socket.begin()
    socket.send({"content": "Hello "})
    socket.send({"content": "there"})
    socket.send({"type": "end"})
    socket.until("complete")
    assert spoken(server) == ["Hello there"]


def test_turns_follow_one_another(server: Served, socket: Socket) -> None:
    for voice in ("anna", "bob"):
        assert socket.begin(voice, preset="realtime")["preset"] == "realtime"
        say(socket, f"Hello from {voice}.")
        socket.send({"type": "end"})
        messages = socket.until("complete")
        assert messages[0]["chunk_index"] == 0
    say(socket, "Nobody listens.")
    assert socket.receive() == {"error": ERROR}
    assert spoken(server) == ["Hello from anna.", "Hello from bob."]


def test_a_turn_may_be_sent_while_the_one_before_is_spoken(server: Served, socket: Socket) -> None:
    gate = Gate()
    server.script.render = gate
    for number in range(3):
        socket.send({"type": "init", "voice_id": "anna"})
        say(socket, f"This is turn {number}.")
        socket.send({"type": "end"})
    assert gate.reached.wait(PATIENCE_S)
    assert [socket.receive()["type"] for _ in range(3)] == ["ready"] * 3
    assert len(server.script.spoken) == 1
    gate.open()
    for _ in range(3):
        messages = socket.until("complete")
        assert messages[0]["chunk_index"] == 0
    assert spoken(server) == [f"This is turn {number}." for number in range(3)]


def test_more_turns_than_may_wait_are_refused(server: Served, socket: Socket) -> None:
    gate = Gate()
    server.script.render = gate
    for _ in range(MAX_TURNS + 1):
        assert socket.begin()["type"] == "ready"
        say(socket, "Hello there, you.")
        socket.send({"type": "end"})
    assert "turns are waiting" in socket.begin()["error"]
    gate.open()
    for _ in range(MAX_TURNS + 1):
        socket.until("complete")


def test_an_empty_turn_completes(socket: Socket) -> None:
    socket.begin()
    socket.send({"type": "end"})
    complete = socket.receive()
    assert (complete["type"], complete["total_chunks"]) == ("complete", 0)


def test_a_new_init_drops_a_turn_that_has_not_been_ended(server: Served, socket: Socket) -> None:
    socket.begin()
    say(socket, "Never mind")
    assert socket.begin("bob")["voice_id"] == "bob"
    say(socket, "This counts.")
    socket.send({"type": "end"})
    socket.until("complete")
    assert spoken(server) == ["This counts."]


def test_a_cancel_stops_at_once(server: Served, socket: Socket) -> None:
    gate = Gate(block=1)
    server.script.render = gate
    server.script.audio_s_per_char = 1.0
    socket.begin()
    say(socket, "This is a long sentence. And more of")
    socket.receive()
    assert gate.reached.wait(PATIENCE_S)
    socket.send({"type": "cancel"})
    assert socket.until("cancelled")[-1] == {"type": "cancelled"}
    server.wait_idle()
    gate.open()
    wait_until(lambda: len(server.script.cancelled) == 1)
    say(socket, "it.")
    assert socket.receive() == {"error": ERROR}  # and no more audio before it
    server.script.render = None
    server.script.audio_s_per_char = 0.06
    socket.begin()
    say(socket, "The next turn.")
    socket.send({"type": "end"})
    assert kinds(socket.until("complete"))[-1] == "complete"


def test_a_cancel_drops_turns_that_wait(server: Served, socket: Socket) -> None:
    gate = Gate()
    server.script.render = gate
    for _ in range(2):
        socket.begin()
        say(socket, "This is one turn.")
        socket.send({"type": "end"})
    assert gate.reached.wait(PATIENCE_S)
    socket.send({"type": "cancel"})
    assert socket.receive() == {"type": "cancelled"}
    gate.open()
    socket.send({"type": "cancel"})  # of nothing
    assert socket.receive() == {"type": "cancelled"}
    assert len(server.script.spoken) == 1


def test_a_client_that_leaves_stops_the_speech(server: Served) -> None:
    gate = Gate(block=1)
    server.script.render = gate
    server.script.audio_s_per_char = 1.0
    with open_socket(server, TURNS) as socket:
        socket.begin()
        say(socket, "This is a long sentence. And more of it")
        assert gate.reached.wait(PATIENCE_S)
    server.wait_idle()
    gate.open()
    wait_until(lambda: len(server.script.cancelled) == 1)


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        ({"type": "text", "content": "Hello."}, {"error": ERROR}),
        ({"content": "Hello."}, {"error": ERROR}),
        ({"type": "end"}, {"error": ERROR}),
        ({"type": "init"}, {"error": "Missing voice_id"}),
        ({"type": "init", "voice_id": "nobody"}, {"error": "Voice not found: nobody"}),
        ({"type": "init", "voice_id": "a b"}, {"error": "Invalid voice_id format: "}),
        ({"type": "nonsense"}, {"type": "error", "error": "Unknown message type: "}),
        ({"type": 3}, {"error": "type: "}),
        ([], {"error": "The message must be a JSON object."}),
        ("{", {"error": "The message is not valid JSON."}),
    ],
)
def test_a_wrong_message_is_answered_and_the_socket_stays_open(
    socket: Socket, message: object, answer: dict[str, str]
) -> None:
    socket.send(message)
    received = socket.receive()
    assert set(received) == set(answer)
    assert received.get("type") == answer.get("type")
    assert received["error"].startswith(answer["error"])
    assert socket.begin()["type"] == "ready"


def test_after_an_unknown_voice_there_is_no_session(socket: Socket) -> None:
    assert "error" in socket.begin("nobody")
    say(socket, "Hello.")
    assert socket.receive() == {"error": ERROR}


def test_a_sentence_that_fails_is_told_and_the_turn_goes_on(server: Served, socket: Socket) -> None:
    socket.begin()
    server.script.fail_before = True
    say(socket, "This sentence will fail. ")
    assert socket.receive() == {"type": "error", "error": "Generation failed."}
    server.script.fail_before = False
    say(socket, "This one is spoken.")
    socket.send({"type": "end"})
    assert kinds(socket.until("complete"))[-1] == "complete"


def test_unknown_presets_are_balanced(socket: Socket) -> None:
    assert socket.begin(preset="turbo")["preset"] == "balanced"


def test_a_slot_is_held_only_for_speech(server: Served, socket: Socket) -> None:
    socket.begin()
    say(socket, "Half a sen")
    time.sleep(0.05)
    assert server.open_requests == 0


def test_a_key_is_needed_where_there_are_keys(serve: Serve) -> None:
    server = serve(api_keys=("right",))
    with pytest.raises(InvalidStatus) as refused, open_socket(server, TURNS):
        pass
    assert refused.value.response.status_code == 401
    with open_socket(server, TURNS, additional_headers={"Authorization": "Bearer right"}) as socket:
        assert socket.begin()["type"] == "ready"
