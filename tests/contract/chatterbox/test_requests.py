"""WS /ws/synthesize: many requests on one connection."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import soundfile
from websockets.exceptions import ConnectionClosed, InvalidStatus

from echo.audio.frames import FRAME_BYTES, MULAW_SILENCE
from tests.contract.chatterbox.calls import REQUESTS, SENTENCE, Socket, open_socket, pieces, whole
from tests.contract.serving import PATIENCE_S, Gate, Serve, Served, wait_until

LONG = " ".join([SENTENCE] * 12)


@pytest.fixture
def socket(server: Served) -> Iterator[Socket]:
    with open_socket(server, REQUESTS) as opened:
        yield opened


def test_speech_is_frames_of_160_bytes_of_mu_law(socket: Socket) -> None:
    socket.send({"text": SENTENCE, "voice_id": "anna"})
    *audio, last = socket.answer()
    assert [message["chunk_index"] for message in audio] == list(range(len(audio)))
    assert all(message.keys() == {"audio", "chunk_index", "is_final", "format", "sample_rate"} for message in audio)
    assert {(m["is_final"], m["format"], m["sample_rate"]) for m in audio} == {(False, "mulaw", 8000)}
    assert all(len(piece) == FRAME_BYTES for piece in pieces(audio))
    assert (last["audio"], last["is_final"], last["backend"]) == (None, True, "fake")
    assert last["chunk_index"] == last["total_chunks"] == last["total_mulaw_chunks"] == len(audio)
    assert 0 <= last["first_chunk_ms"] <= last["total_ms"]
    assert set(last["latency"]) == {"voice_load", "queue", "generation", "transcode"}
    for took in last["latency"].values():
        assert took >= 0
        assert took == round(took, 1)


def test_frames_have_no_gaps(server: Served, socket: Socket) -> None:
    """Only the last frame is filled up, and all of them are the audio of a whole answer, to the byte."""
    socket.send({"text": LONG, "voice_id": "anna", "seed": 7})
    audio = b"".join(pieces(socket.answer()))
    same = whole(server, LONG, 7)
    assert len(same) > 10 * 8000
    assert audio == same + MULAW_SILENCE * (-len(same) % FRAME_BYTES)


def test_wav_comes_as_small_whole_files_at_the_engines_rate(socket: Socket) -> None:
    socket.send({"text": LONG, "voice_id": "anna", "output_format": "wav", "seed": 7})
    *audio, last = socket.answer()
    files = [soundfile.read(io.BytesIO(piece), dtype="int16") for piece in pieces(audio)]
    assert len(files) > 1
    assert {rate for _, rate in files} == {message["sample_rate"] for message in audio} == {44_100}
    assert {message["format"] for message in audio} == {"wav"}
    assert (last["total_chunks"], last["total_mulaw_chunks"]) == (len(files), 0)
    joined = np.concatenate([samples for samples, _ in files])
    # A sine of constant level: where two files meet, there is no step larger than within them.
    middle = joined[44_100 // 10 : 44_100]
    edges = np.cumsum([len(samples) for samples, _ in files])[:-1]
    steps = np.abs(np.diff(joined.astype(np.int32)))
    assert all(steps[edge - 1] <= np.abs(np.diff(middle.astype(np.int32))).max() + 1 for edge in edges)


def test_requests_are_answered_in_order(socket: Socket, server: Served) -> None:
    texts = [f"Request number {number}." for number in range(4)]
    for text in texts:
        socket.send({"text": text, "voice_id": "bob"})
    socket.send({"text": "", "voice_id": "bob"})
    socket.send({"text": "The last one.", "voice_id": "bob"})
    for _ in texts:
        assert socket.answer()[-1]["is_final"]
    assert socket.answer() == [{"error": "Missing text or voice_id"}]
    assert socket.answer()[-1]["is_final"]
    assert [utterance.text for utterance in server.script.spoken] == [f"[S1] {t}" for t in [*texts, "The last one."]]


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ({"voice_id": "anna"}, "Missing text or voice_id"),
        ({"text": "Hello."}, "Missing text or voice_id"),
        ({"text": "Hello.", "voice_id": "../anna"}, "Invalid voice_id format: "),
        ({"text": "Hello.", "voice_id": "Old Man"}, "Invalid voice_id format: "),
        ({"text": "Hello.", "voice_id": "a" * 3000}, "Invalid voice_id format: "),
        ({"text": "Hello.", "voice_id": "nobody"}, "Voice not found: nobody"),
        ({"text": 3, "voice_id": "anna"}, "text: "),
        ({"text": "Hello.", "voice_id": "anna", "output_format": "mp3"}, "output_format: "),
        ({"text": "a" * 5000, "voice_id": "anna"}, "text: "),
        (["text"], "The message must be a JSON object."),
        ("text", "The message is not valid JSON."),
        (b"\xff", "The message is not valid JSON."),
    ],
)
def test_a_wrong_message_is_answered_and_the_socket_stays_open(socket: Socket, message: object, error: str) -> None:
    socket.send(message)
    (answer,) = socket.answer()
    assert set(answer) == {"error"}
    assert answer["error"].startswith(error)
    socket.send({"text": "Hello.", "voice_id": "anna"})
    assert socket.answer()[-1]["is_final"]


@pytest.mark.parametrize(("preset", "first"), [("realtime", 16), ("fast", 32), ("expressive", 64), ("never heard", 32)])
def test_a_preset_is_a_plan_of_blocks(socket: Socket, server: Served, preset: str, first: int) -> None:
    socket.send({"text": "Hello.", "voice_id": "anna", "preset": preset})
    assert socket.answer()[-1]["is_final"]
    (utterance,) = server.script.spoken
    assert utterance.plan.blocks[0].size == first


def test_a_failure_in_the_middle_is_an_error_and_no_end(socket: Socket, server: Served) -> None:
    server.script.fail_after_blocks = 1
    server.script.audio_s_per_char = 1.0
    socket.send({"text": SENTENCE, "voice_id": "anna"})
    *audio, last = socket.answer()
    assert audio
    assert last == {"error": "Generation failed."}
    server.script.fail_after_blocks = None
    socket.send({"text": "Hello.", "voice_id": "anna"})
    assert socket.answer()[-1]["is_final"]


def test_a_client_that_leaves_stops_the_speech(server: Served) -> None:
    gate = Gate(block=1)
    server.script.render = gate
    server.script.audio_s_per_char = 1.0
    with open_socket(server, REQUESTS) as socket:
        socket.send({"text": SENTENCE, "voice_id": "anna"})
        socket.send({"text": "It waits.", "voice_id": "anna"})
        socket.receive()
        assert gate.reached.wait(PATIENCE_S)
        assert server.open_requests == 1
    server.wait_idle()
    gate.open()
    wait_until(lambda: len(server.script.cancelled) == 1)
    assert len(server.script.spoken) == 1


def test_a_client_that_never_stops_asking_is_let_go(server: Served) -> None:
    gate = Gate()
    server.script.render = gate
    with open_socket(server, REQUESTS) as socket, pytest.raises(ConnectionClosed) as closed:  # noqa: PT012
        for _ in range(3000):
            socket.send({"text": "Hello.", "voice_id": "anna"})
        while True:
            socket.receive()
    gate.open()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1008


def test_a_key_is_needed_where_there_are_keys(serve: Serve) -> None:
    server = serve(api_keys=("right",))
    with pytest.raises(InvalidStatus) as refused, open_socket(server, REQUESTS):
        pass
    assert refused.value.response.status_code == 401
    assert set(json.loads(refused.value.response.body or b"")) == {"error"}
    with open_socket(server, REQUESTS, additional_headers={"Authorization": "Bearer right"}) as socket:
        socket.send({"text": "Hello.", "voice_id": "anna"})
        assert socket.answer()[-1]["is_final"]


def test_connections_do_not_wait_for_one_another(server: Served) -> None:
    gate = Gate()
    server.script.render = gate
    with open_socket(server, REQUESTS) as held, open_socket(server, REQUESTS) as free:
        held.send({"text": "Held.", "voice_id": "anna"})
        assert gate.reached.wait(PATIENCE_S)
        server.script.render = None
        free.send({"text": "Free.", "voice_id": "anna"})
        assert free.answer()[-1]["is_final"]
        gate.open()
        assert held.answer()[-1]["is_final"]


def test_it_can_be_switched_off(serve: Serve) -> None:
    server = serve(chatterbox_compat=False)
    with pytest.raises(InvalidStatus) as refused, open_socket(server, REQUESTS):
        pass
    assert refused.value.response.status_code in (403, 404)
    assert threading.active_count() > 0
