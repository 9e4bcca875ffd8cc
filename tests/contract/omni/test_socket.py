"""WS /v1/audio/speech/stream, through the websockets library."""

from __future__ import annotations

import base64
import io
import itertools
import json
import struct
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import soundfile
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.contract.cloning import clip
from tests.contract.docs.audio import decoded, spoken_seconds
from tests.contract.omni.calls import Heard, Json, Socket, open_socket
from tests.contract.serving import PATIENCE_S, Gate, Serve, Served, wait_until

TOKENS = ("The", " rain", " has", " stop", "ped", ". We", " can", " go", ".")
SENTENCES = ["The rain has stopped.", "We can go."]


@pytest.fixture
def socket(server: Served) -> Iterator[Socket]:
    with open_socket(server) as opened:
        yield opened


def spoken(server: Served) -> list[str]:
    return [utterance.text.removeprefix("[S1] ") for utterance in server.script.spoken]


def close_code(socket: Socket) -> int:
    with pytest.raises(ConnectionClosed):
        socket.connection.recv(timeout=PATIENCE_S)
    assert socket.connection.protocol.close_rcvd is not None
    return socket.connection.protocol.close_rcvd.code


# -- the two engines' ways -------------------------------------------------------------------------------------------


def test_utterance_after_utterance_as_with_vllm(server: Served, socket: Socket) -> None:
    configured = socket.config(model="echo-tts")
    assert configured["session_id"]
    assert (configured["response_format"], configured["stream_audio"]) == ("pcm", True)
    for turn in range(2):
        heard = socket.say(*TOKENS)
        assert heard.texts == SENTENCES
        assert heard.other == []
        assert (heard.done["utterance_index"], heard.done["total_sentences"]) == (turn, 2)
        for index, sentence in enumerate(heard.sentences):
            assert (sentence.start["utterance_index"], sentence.start["sentence_index"]) == (turn, index)
            assert (sentence.start["format"], sentence.start["sample_rate"], sentence.start["channels"]) == (
                "pcm",
                44_100,
                1,
            )
            assert sentence.done["total_bytes"] == len(sentence.audio) > 44_100
            assert sentence.done["error"] is False
            assert all(len(frame) % 2 == 0 for frame in sentence.frames)
    assert spoken(server) == SENTENCES * 2
    assert len({utterance.seed for utterance in server.script.spoken[:2]}) == 1


def test_one_utterance_as_with_sglang(socket: Socket) -> None:
    socket.send("session.config", session={"voice": "anna", "stream_audio": True, "split_granularity": "sentence"})
    configured = socket.receive()
    assert configured["type"] == "session.configured"
    assert configured["response_format"] == "pcm"
    heard = socket.say(*TOKENS)
    assert heard.texts == SENTENCES
    assert heard.done["session_id"] == configured["session_id"]
    assert all(sentence.start["id"] for sentence in heard.sentences)
    assert close_code(socket) == 1000


def test_a_sentence_is_a_whole_wav_file_unless_asked_otherwise(socket: Socket) -> None:
    socket.send("session.config", voice="anna")
    configured = socket.receive()
    assert (configured["response_format"], configured["stream_audio"]) == ("wav", False)
    assert configured["split_granularity"] == "sentence"
    heard = socket.say(*TOKENS)
    assert heard.texts == SENTENCES
    for sentence in heard.sentences:
        (file,) = sentence.frames
        assert sentence.done["total_bytes"] == len(file)
        assert (file[:4], struct.unpack("<I", file[40:44])[0]) == (b"RIFF", len(file) - 44)
        assert decoded(file).seconds == pytest.approx(len(f"[S1] {sentence.text}") * 0.06, abs=0.2)


@pytest.mark.parametrize("format", ["flac", "mp3", "opus", "pcm"])
def test_files_of_every_format(socket: Socket, format: str) -> None:
    socket.config(stream_audio=False, response_format=format)
    heard = socket.say("The rain has stopped. We can go.")
    assert heard.texts == SENTENCES
    assert all(sentence.start["format"] == format and len(sentence.frames) == 1 for sentence in heard.sentences)
    for sentence in heard.sentences:
        expected = len(f"[S1] {sentence.text}") * 0.06
        if format == "pcm":
            assert len(sentence.audio) / 2 / 44_100 == pytest.approx(expected, abs=0.2)
        elif format == "flac":
            info = soundfile.info(io.BytesIO(sentence.audio))
            assert info.frames / info.samplerate == pytest.approx(expected, abs=0.2)
        else:
            assert decoded(sentence.audio).seconds == pytest.approx(expected, abs=0.2)


# -- when text is spoken ---------------------------------------------------------------------------------------------


def test_a_sentence_is_spoken_before_the_text_has_ended(server: Served, socket: Socket) -> None:
    socket.config()
    socket.text("The rain has stopped. ", "And")
    while "audio.done" not in str(socket.connection.recv(timeout=PATIENCE_S)):
        pass
    assert spoken(server) == ["The rain has stopped."]


def test_a_clause_may_be_a_sentence(socket: Socket) -> None:
    socket.config(split_granularity="clause")
    assert socket.say("Well, it has stopped; ", "we can go, at last").texts == [
        "Well,",
        "it has stopped;",
        "we can go,",
        "at last",
    ]


def test_all_of_a_text_may_be_a_sentence(server: Served, socket: Socket) -> None:
    text = "This sentence is one of many. " * 50
    socket.config(split_granularity="none", stream_audio=False, response_format="wav")
    socket.text(*(text[at : at + 100] for at in range(0, len(text), 100)))
    assert server.script.spoken == []
    socket.send("input.done")
    heard = socket.utterance()
    assert heard.texts == [text.strip()]
    assert len(heard.sentences[0].frames) == 1
    assert "".join(spoken(server)).replace(" ", "") == text.replace(" ", "")


def test_what_cannot_be_spoken_is_no_sentence(socket: Socket) -> None:
    socket.config()
    for text in ("", "...", " "):
        assert socket.say(text).done["total_sentences"] == 0


def test_a_long_text_in_one_message_is_spoken_to_its_end(server: Served, socket: Socket) -> None:
    server.script.audio_s_per_char = 0.001
    sentences = [f"This is number {number}." for number in range(400)]
    socket.config()
    assert socket.say(" ".join(sentences)).texts == sentences


def test_the_next_utterance_may_be_written_while_one_is_spoken(server: Served, socket: Socket) -> None:
    server.script.render = gate = Gate()
    socket.config()
    for text in ("One.", "Two.", "Three."):
        socket.text(text)
        socket.send("input.done")
    assert gate.reached.wait(PATIENCE_S)
    gate.open()
    for index, text in enumerate(("One.", "Two.", "Three.")):
        heard = socket.utterance()
        assert (heard.texts, heard.done["utterance_index"]) == ([text], index)


# -- words -----------------------------------------------------------------------------------------------------------


def test_words_come_with_their_times(socket: Socket) -> None:
    socket.config(word_timestamps=True)
    heard = socket.say(*TOKENS)
    assert heard.texts == SENTENCES
    for sentence in heard.sentences:
        assert sentence.frames == []
        assert [chunk["chunk_id"] for chunk in sentence.chunks] == list(range(len(sentence.chunks)))
        audio = [base64.b64decode(chunk["audio_b64"]) for chunk in sentence.chunks]
        assert sum(map(len, audio)) == sentence.done["total_bytes"]
        length = sentence.done["total_bytes"] * 1000 // 88_200
        assert sentence.chunks[0]["chunk_start_ms"] == 0
        for before, after in itertools.pairwise(sentence.chunks):
            assert before["chunk_end_ms"] == after["chunk_start_ms"]
        last = sentence.chunks[-1]
        assert (last["audio_b64"], last["chunk_end_ms"]) == ("", length)
        assert all(chunk["timestamps"] is None for chunk in sentence.chunks[:-1])
        assert [word["word"] for word in last["timestamps"]] == sentence.text.split()
        times = [time for word in last["timestamps"] for time in (word["start_ms"], word["end_ms"])]
        assert times == sorted(times)
        assert 0 <= times[0] < times[-1] <= length


def test_silence_has_no_words(server: Served, socket: Socket) -> None:
    server.script.render = lambda utterance, block, count: np.zeros(count, np.float32)
    socket.config(word_timestamps=True)
    (sentence,) = socket.say("Nothing is heard.").sentences
    assert sentence.chunks[-1]["timestamps"] == []


# -- the session's settings ------------------------------------------------------------------------------------------


def test_fields_of_a_request_work(server: Served, socket: Socket) -> None:
    socket.config(
        seed=7, num_steps=3, voice={"id": "bob"}, language="English", instructions="Whisper.", sample_rate=8000
    )
    heard = socket.say("Hello there.")
    assert heard.sentences[0].start["sample_rate"] == 8_000
    assert len(heard.audio) / 2 / 8_000 == pytest.approx(spoken_seconds(server), abs=0.2)
    (utterance,) = server.script.spoken
    assert utterance.seed == 7
    assert {block.steps for block in utterance.plan.blocks} == {3}


def test_speed_is_applied_to_a_stream(socket: Socket) -> None:
    lengths = []
    for speed in (1.0, 2.0):
        socket.config(speed=speed)
        lengths.append(len(socket.say("Hello there, whoever you are.").audio))
    assert lengths[1] / lengths[0] == pytest.approx(0.5, rel=0.15)


@pytest.mark.parametrize("field", ["voice", "speaker", "ref_audio"])
@pytest.mark.parametrize("prefix", ["", "data:audio/wav;base64,"])
def test_a_recording_may_be_the_voice(server: Served, socket: Socket, field: str, prefix: str) -> None:
    recording = prefix + base64.b64encode(clip(seconds=2.0)).decode()
    fields = {"voice": None, field: recording, "ref_text": "What it says."}
    socket.config(**fields)
    assert socket.say("Hello there.").texts == ["Hello there."]
    voice = server.script.spoken[-1].voice
    assert voice is not None
    assert voice.nbytes == 2 * 441


def test_settings_may_change_between_utterances(server: Served, socket: Socket) -> None:
    socket.config(seed=1)
    socket.text("One.")
    socket.send("input.done")
    socket.send("session.config", voice="bob", response_format="mp3")
    socket.text("Two.")
    socket.send("input.done")
    first, second = socket.utterance(), socket.utterance()
    assert [sentence.start["format"] for sentence in (*first.sentences, *second.sentences)] == ["pcm", "mp3"]
    # The answer to the change does not come between the audio of the utterance before it.
    assert [message["type"] for message in second.other] == ["session.configured"]
    assert server.script.spoken[0].seed == 1


def test_settings_stay_while_an_utterance_is_being_written(socket: Socket) -> None:
    socket.config()
    socket.text("One.")
    socket.send("session.config", voice="anna", response_format="mp3")
    socket.send("input.done")
    heard = socket.utterance()
    assert [message["type"] for message in heard.other] == ["error"]
    assert heard.sentences[0].start["format"] == "pcm"


# -- stopping --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [0, 1])
def test_a_cancel_stops_at_once_and_the_next_utterance_is_spoken(server: Served, socket: Socket, block: int) -> None:
    server.script.render = gate = Gate(block)
    socket.config()
    socket.text("word " * 60)
    socket.send("input.done")
    socket.text("Never spoken. Nor this.")
    assert gate.reached.wait(PATIENCE_S)
    socket.send("input.cancel")
    first, second = socket.utterance(), socket.utterance()
    assert first.done["cancelled"] is second.done["cancelled"] is True
    assert [sentence.done["cancelled"] for sentence in first.sentences] == [True]
    assert first.sentences[0].done["total_bytes"] == len(first.audio)
    assert second.sentences == []
    wait_until(lambda: server.open_requests == 0)
    gate.open()
    wait_until(lambda: len(server.script.cancelled) == 1)
    heard = socket.say("I am listening.")
    assert (heard.texts, heard.done["utterance_index"]) == (["I am listening."], 2)
    assert "cancelled" not in heard.done


def test_a_cancel_of_nothing_is_not_answered(socket: Socket) -> None:
    socket.config()
    socket.send("input.cancel")
    assert socket.say("Hello.").other == []
    socket.send("input.cancel")
    assert socket.say("Hello.").done["utterance_index"] == 1


def test_closing_stops_at_once(server: Served, socket: Socket) -> None:
    server.script.render = gate = Gate()
    socket.config()
    socket.text("word " * 60)
    socket.send("input.done")
    assert gate.reached.wait(PATIENCE_S)
    socket.send("session.close")
    while socket.connection.protocol.close_rcvd is None:
        try:
            socket.connection.recv(timeout=PATIENCE_S)
        except ConnectionClosed:
            break
    assert socket.connection.protocol.close_rcvd is not None
    assert socket.connection.protocol.close_rcvd.code == 1000
    wait_until(lambda: server.open_requests == 0)
    gate.open()


@pytest.mark.parametrize("block", [0, 1])
def test_a_client_that_leaves_takes_its_work_along(server: Served, block: int) -> None:
    server.script.render = gate = Gate(block)
    with open_socket(server) as socket:
        socket.config()
        socket.text("word " * 60)
        socket.send("input.done")
        assert gate.reached.wait(PATIENCE_S)
        assert server.open_requests == 1
    wait_until(lambda: server.open_requests == 0)
    gate.open()
    wait_until(lambda: len(server.script.cancelled) == 1)


def test_a_client_that_does_not_read_holds_only_itself_up(server: Served) -> None:
    with open_socket(server, max_queue=1, close_timeout=0.1) as deaf, open_socket(server) as other:
        deaf.config()
        deaf.text(*["This is a sentence of some length, and nobody reads its audio. " * 10] * 20)
        other.config()
        assert other.say("Hello.").texts == ["Hello."]
    server.wait_idle()


# -- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frame",
    [
        *("", "{", "[]", "null", b"\xff", "{}", '{"type":5}', '{"type":"hello"}'),
        *('{"type":"input.text"}', '{"type":"input.text","text":5}'),
    ],
)
def test_what_is_no_message_is_an_error_and_the_connection_stays(socket: Socket, frame: str | bytes) -> None:
    socket.config()
    socket.connection.send(frame)
    assert socket.error()["message"]
    assert socket.say("Hello.").texts == ["Hello."]


@pytest.mark.parametrize(
    "frame",
    ["", "{", '{"type":"input.text","text":"Hi."}', '{"type":"hello"}', '{"type":"session.config","voice":"nobody"}'],
)
def test_before_the_configuration_an_error_ends_the_connection(socket: Socket, frame: str) -> None:
    socket.connection.send(frame)
    assert socket.error()["message"]
    assert close_code(socket) == 1008


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"voice": "nobody"}, "voice"),
        ({"voice": "../anna"}, "voice"),
        ({"response_format": "ogg", "stream_audio": False}, "response_format"),
        ({"response_format": "wav"}, "stream_audio"),
        ({"stream_audio": "yes"}, "stream_audio"),
        ({"stream_audio": False, "word_timestamps": True}, "word_timestamps"),
        ({"split_granularity": "word"}, "split_granularity"),
        ({"speed": 9}, "speed"),
        ({"seed": True}, "seed"),
        ({"sample_rate": 1}, "sample_rate"),
        ({"num_steps": 0}, "num_steps"),
        ({"preset": "nothing"}, "preset"),
        ({"ref_audio": "https://example.com/ada.wav"}, "ref_audio"),
        ({"ref_audio": "UklGRg=="}, "ref_audio"),
        ({"session": 5}, "session"),
    ],
)
def test_a_wrong_setting_is_named_and_the_old_ones_stay(socket: Socket, fields: Json, param: str) -> None:
    socket.config(voice="bob")
    settings = {"voice": "anna", "response_format": "pcm", "stream_audio": True, **fields}
    socket.send("session.config", **settings)
    answer = socket.error()
    assert answer["param"] == param
    assert param in answer["message"] or "oice" in answer["message"]
    assert socket.say("Hello.").texts == ["Hello."]


def test_a_failed_sentence_costs_only_itself(server: Served, socket: Socket) -> None:
    socket.config()
    server.script.fail_before = True
    socket.text("This fails. ", "And")
    while server.script.spoken == []:
        socket.read()
    wait_until(lambda: server.open_requests == 0)
    server.script.fail_before = False
    socket.text(" this works.")
    socket.send("input.done")
    failed, works = socket.utterance().sentences
    (error,) = failed.errors
    assert (error["message"], error["partial_audio"]) == ("Generation failed.", False)
    assert failed.done["error"] is True
    assert (works.errors, works.done["error"]) == ([], False)


def test_audio_that_has_been_sent_of_a_failed_sentence_is_to_be_discarded(server: Served, socket: Socket) -> None:
    server.script.fail_after_blocks = 1
    socket.config()
    (sentence,) = socket.say("word " * 40).sentences
    assert sentence.audio
    (error,) = sentence.errors
    assert (error["partial_audio"], error["action"]) == (True, "discard")
    assert (sentence.done["error"], sentence.done["total_bytes"]) == (True, len(sentence.audio))


def test_nothing_has_been_sent_of_a_failed_file(server: Served, socket: Socket) -> None:
    server.script.fail_after_blocks = 1
    socket.config(stream_audio=False)
    (sentence,) = socket.say("word " * 40).sentences
    assert sentence.frames == []
    assert sentence.errors[0]["partial_audio"] is False


def test_a_busy_server_says_so(server: Served, socket: Socket) -> None:
    server.script.refuse = True
    socket.config()
    (sentence,) = socket.say("Hello.").sentences
    assert sentence.errors[0]["code"] == "queue_full"
    server.script.refuse = False
    assert socket.say("Hello.").sentences[0].errors == []


def test_too_much_text_is_refused_and_not_taken(server: Served, socket: Socket) -> None:
    server.script.render = gate = Gate()
    socket.config(split_granularity="none")
    socket.text("word " * 9_990, "word " * 20)
    assert socket.error()["code"] == "queue_full"
    socket.text("end.")
    socket.send("input.cancel")
    gate.open()
    assert socket.utterance().done["cancelled"]


def test_so_many_utterances_wait_and_no_more(server: Served, socket: Socket) -> None:
    server.script.render = gate = Gate()
    socket.config()
    for number in range(17):
        socket.text(f"Number {number}.")
        socket.send("input.done")
    while len(socket.heard.other) < 2:  # all has been read when the last is refused
        assert socket.read() is None
    gate.open()
    heard: list[Heard] = [socket.utterance() for _ in range(16)]
    errors = [message for one in heard for message in one.other]
    assert [error["code"] for error in errors] == ["queue_full", "queue_full"]  # for the text and for its end
    assert [one.texts for one in heard] == [[f"Number {number}."] for number in range(16)]


def test_a_file_that_becomes_too_large_ends_the_utterance(serve: Serve) -> None:
    with open_socket(serve(max_whole_bytes=100_000)) as socket:
        socket.config(stream_audio=False)
        heard = socket.say("Short. ", "This one is a good deal longer than the other.", " Never spoken.")
        assert [sentence.done["error"] for sentence in heard.sentences] == [False, True]
        assert "sent in one piece" in heard.sentences[1].errors[0]["message"]
        assert socket.say("Short.").sentences[0].errors == []


# -- the connection --------------------------------------------------------------------------------------------------


def test_a_handshake_without_the_key_is_refused(serve: Serve) -> None:
    server = serve(api_keys=("k-1",))
    with pytest.raises(InvalidStatus) as caught, open_socket(server, additional_headers={"Authorization": "Bearer no"}):
        pass
    assert caught.value.response.status_code == 401
    with open_socket(server, additional_headers={"Authorization": "Bearer k-1"}) as socket:
        socket.config()


def test_the_socket_can_be_switched_off(serve: Serve) -> None:
    with pytest.raises(InvalidStatus), open_socket(serve(omni_compat=False)):
        pass


def test_many_sockets_at_once_are_all_served(server: Served) -> None:
    heard: list[list[str]] = []

    def talk() -> None:
        with open_socket(server) as socket:
            socket.config()
            heard.append([*socket.say(*TOKENS).texts, *socket.say("Hello.").texts])

    threads = [threading.Thread(target=talk) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert heard == [[*SENTENCES, "Hello."]] * 8


def test_errors_tell_nothing_of_the_inside(socket: Socket) -> None:
    socket.config()
    socket.connection.send(json.dumps({"type": "session.config", "speed": {"a": "b"}}))
    message = socket.error()["message"]
    assert "pydantic" not in message
    assert "Traceback" not in message
