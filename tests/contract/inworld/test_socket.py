"""WS /tts/v1/voice:streamBidirectional."""

from __future__ import annotations

import base64
import struct
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import InvalidStatus

from echo.audio.join import JoinRules
from echo.types import Audio, Utterance
from tests.contract.inworld.calls import Json, Socket, audio_of, check_alignment, chunks, open_socket
from tests.contract.serving import PATIENCE_S, Gate, Serve, Served, wait_until


@pytest.fixture
def socket(server: Served) -> Iterator[Socket]:
    with open_socket(server) as opened:
        yield opened


def _spoken(server: Served) -> list[str]:
    return [utterance.text for utterance in server.script.spoken]


def _kinds(results: list[Json]) -> list[str]:
    """The payload keys in order, runs of audio chunks as one."""
    kinds = [next(key for key in result if key not in ("contextId", "status")) for result in results]
    return [kind for at, kind in enumerate(kinds) if at == 0 or kind != kinds[at - 1]]


# -- the life of a context -------------------------------------------------------------------------------------------


def test_a_context_speaks_and_closes(socket: Socket) -> None:
    created = socket.create("c", modelId="inworld-tts-2")
    assert (created["voiceId"], created["modelId"]) == ("anna", "inworld-tts-2")
    assert created["audioConfig"] == {
        "audioEncoding": "PCM",
        "sampleRateHertz": 24000,
        "bitRate": 128000,
        "speakingRate": 1.0,
    }
    socket.send({"send_text": {"text": "Hello there."}}, "c")
    socket.send({"close_context": {}}, "c")
    results = socket.until("contextClosed")
    assert _kinds(results) == ["audioChunk", "flushCompleted", "contextClosed"]
    assert {result["contextId"] for result in results} == {"c"}
    assert all(result["status"] == {"code": 0, "message": "", "details": []} for result in results)
    assert len(audio_of(chunks(results))) > 24000


def test_every_message_works_in_camel_case(server: Served, socket: Socket) -> None:
    socket.send({"create": {"voice_id": "anna", "audio_config": {"audio_encoding": "PCM"}}, "context_id": "c"})
    socket.until("contextCreated")
    socket.send({"sendText": {"text": "One."}, "context_id": "c"})
    socket.send({"flushContext": {}, "contextId": "c"})
    socket.until("flushCompleted")
    socket.send({"updateConfig": {"voice_id": "bob"}, "contextId": "c"})
    assert socket.until("contextUpdated")[-1]["contextUpdated"]["voiceId"] == "bob"
    socket.send({"sendText": {"text": "Two.", "flushContext": {}}, "contextId": "c"})
    socket.until("flushCompleted")
    socket.send({"closeContext": {}, "contextId": "c"})
    socket.until("contextClosed")
    assert _spoken(server) == ["[S1] One.", "[S1] Two."]


def test_a_flush_within_a_text_speaks_at_once(socket: Socket) -> None:
    socket.create()
    socket.send({"send_text": {"text": "Hello there.", "flush_context": {}}}, "c")
    assert _kinds(socket.until("flushCompleted")) == ["audioChunk", "flushCompleted"]


def test_the_only_context_need_not_be_named(socket: Socket) -> None:
    socket.create("only")
    socket.send({"send_text": {"text": "Hello."}})
    socket.send({"close_context": {}, "contextId": ""})
    assert socket.until("contextClosed")[-1]["contextId"] == "only"


def test_a_context_without_an_id_gets_one(socket: Socket) -> None:
    socket.send({"create": {"voiceId": "anna"}})
    name = socket.receive()["result"]["contextId"]
    socket.send({"close_context": {}}, name)
    assert socket.until("contextClosed")[-1]["contextId"] == name


def test_an_id_can_be_used_again_once_it_is_closed(socket: Socket) -> None:
    for end in ("close_context", "cancel_context"):
        socket.create("again")
        socket.send({end: {}}, "again")
        socket.until("contextClosed", "again")


def test_flushing_nothing_completes_without_audio(socket: Socket) -> None:
    socket.create()
    socket.send({"flush_context": {}}, "c")
    assert _kinds(socket.until("flushCompleted")) == ["flushCompleted"]


@pytest.mark.parametrize("text", ["...", " ", "*sighs*"])
def test_flushing_what_cannot_be_spoken_completes_without_speech(server: Served, socket: Socket, text: str) -> None:
    socket.create()
    socket.send({"send_text": {"text": text, "flush_context": {}}}, "c")
    assert set(_kinds(socket.until("flushCompleted"))) <= {"audioChunk", "flushCompleted"}
    assert _spoken(server) == []


# -- when text is spoken ---------------------------------------------------------------------------------------------


def test_text_waits_until_it_is_flushed(server: Served, socket: Socket) -> None:
    socket.create()
    for token in ("Hello", " there", ". How", " are you?"):
        socket.send({"send_text": {"text": token}}, "c")
    socket.send({"flush_context": {}}, "c")
    socket.until("flushCompleted")
    assert _spoken(server) == ["[S1] Hello there. How are you?"]


def test_reaching_the_threshold_speaks(socket: Socket, server: Served) -> None:
    socket.create(bufferCharThreshold=20)
    socket.send({"send_text": {"text": "A first sentence. And a seco"}}, "c")
    socket.until("flushCompleted")
    assert _spoken(server) == ["[S1] A first sentence."]


def test_the_delay_speaks_what_is_left(socket: Socket, server: Served) -> None:
    socket.create(max_buffer_delay_ms=30)
    socket.send({"send_text": {"text": "Hello"}}, "c")
    assert _kinds(socket.until("flushCompleted")) == ["audioChunk", "flushCompleted"]
    assert _spoken(server) == ["[S1] Hello"]


def test_auto_mode_speaks_every_text_at_once(socket: Socket, server: Served) -> None:
    socket.create(autoMode=True)
    for text in ("First phrase", "Second phrase."):
        socket.send({"send_text": {"text": text}}, "c")
        socket.until("flushCompleted")
    assert _spoken(server) == ["[S1] First phrase", "[S1] Second phrase."]


def test_the_sentence_strategy_finds_the_sentences_in_tokens(socket: Socket, server: Served) -> None:
    socket.create(autoMode=True, autoModeStrategy="SENTENCE_BOUNDARY")
    for token in ("Mr", ". Smith", " came", ". He", " left", ". The"):
        socket.send({"send_text": {"text": token}}, "c")
    socket.until("flushCompleted")
    socket.until("flushCompleted")
    assert _spoken(server) == ["[S1] Mr. Smith came.", "[S1] He left."]


def test_a_keep_alive_speaks_nothing(socket: Socket, server: Served) -> None:
    socket.send({"send_text": {"text": ""}})
    socket.create(autoMode=True)
    socket.send({"send_text": {"text": ""}}, "c")
    socket.send({"close_context": {}}, "c")
    assert _kinds(socket.until("contextClosed")) == ["contextClosed"]
    assert _spoken(server) == []


# -- what a flush sends ----------------------------------------------------------------------------------------------


def test_characters_are_counted_once_for_each_flush(socket: Socket) -> None:
    socket.create(modelId="m")
    for text in ("Twelve chars", "Five."):
        socket.send({"send_text": {"text": text, "flush_context": {}}}, "c")
        counts = [chunk["usage"]["processedCharactersCount"] for chunk in chunks(socket.until("flushCompleted"))]
        assert counts == [len(text)] + [0] * (len(counts) - 1)


@pytest.mark.parametrize("strategy", ["SYNC", "ASYNC"])
def test_timestamps_of_every_flush_start_again(socket: Socket, strategy: str) -> None:
    socket.create(timestampType="WORD", timestampTransportStrategy=strategy)
    # The second flush may begin with the pause between two sentences.
    for text, latest in (("Hello there.", 0.2), ("And once more.", 0.2 + JoinRules().pause_ms / 1000)):
        socket.send({"send_text": {"text": text, "flush_context": {}}}, "c")
        parts = chunks(socket.until("flushCompleted"))
        assert ["timestampInfo" in part for part in parts] == [False] * (len(parts) - 1) + [True]
        assert ("audioContent" in parts[-1]) == (strategy == "SYNC")
        info = parts[-1]["timestampInfo"]
        assert check_alignment(info, len(audio_of(parts)) / 48000) == text.split()
        assert info["wordAlignment"]["wordStartTimeSeconds"][0] < latest


def test_a_wav_context_has_one_header(socket: Socket) -> None:
    socket.create(audioConfig={"audioEncoding": "LINEAR16", "sampleRateHertz": 16000})
    results = []
    for text in ("One.", "Two."):
        socket.send({"send_text": {"text": text, "flush_context": {}}}, "c")
        results += socket.until("flushCompleted")
    data = audio_of(chunks(results))
    assert data[:4] == b"RIFF"
    assert struct.unpack("<I", data[24:28])[0] == 16000
    assert data.count(b"RIFF") == 1


def test_a_new_format_starts_with_a_new_header(socket: Socket) -> None:
    socket.create(audioConfig={"audioEncoding": "LINEAR16", "sampleRateHertz": 16000})
    socket.send({"send_text": {"text": "One.", "flush_context": {}}}, "c")
    socket.until("flushCompleted")
    socket.send({"update_config": {"audioConfig": {"sampleRateHertz": 8000}}}, "c")
    socket.send({"send_text": {"text": "Two.", "flush_context": {}}}, "c")
    data = audio_of(chunks(socket.until("flushCompleted")))
    assert struct.unpack("<I", data[24:28])[0] == 8000


def test_an_update_speaks_the_buffer_with_the_old_settings(socket: Socket, server: Served) -> None:
    socket.create(seed=1)
    socket.send({"send_text": {"text": "Old settings."}}, "c")
    socket.send({"update_config": {"seed": 2, "modelId": "another"}}, "c")
    socket.send({"send_text": {"text": "New settings."}}, "c")
    socket.send({"close_context": {}}, "c")
    results = socket.until("contextClosed")
    assert _kinds(results) == [
        "audioChunk",
        "flushCompleted",
        "contextUpdated",
        "audioChunk",
        "flushCompleted",
        "contextClosed",
    ]
    assert [(u.text, u.seed) for u in server.script.spoken] == [("[S1] Old settings.", 1), ("[S1] New settings.", 2)]
    (updated,) = (result["contextUpdated"] for result in results if "contextUpdated" in result)
    assert updated["modelId"] == "echo-tts"


def test_audio_of_a_context_stays_in_order(socket: Socket, server: Served) -> None:
    levels = {"[S1] One.": 0.2, "[S1] Two.": 0.4, "[S1] Three.": 0.6}
    server.script.render = lambda utterance, block, count: np.full(count, levels[utterance.text], np.float32)
    socket.create()
    for text in ("One.", "Two.", "Three."):
        socket.send({"send_text": {"text": text, "flush_context": {}}}, "c")
    heard = []
    for _ in levels:
        samples = np.frombuffer(audio_of(chunks(socket.until("flushCompleted"))), "<i2")
        heard.append(round(float(np.median(samples)) / 32768, 1))
    assert heard == [0.2, 0.4, 0.6]


# -- several contexts ------------------------------------------------------------------------------------------------


class _Turns:
    """Renders block by block, so that the test decides which context gets on."""

    def __init__(self) -> None:
        self.allowed = threading.Semaphore(0)
        self.blocked_texts: set[str] = set()

    def __call__(self, utterance: Utterance, block: int, count: int) -> Audio:
        if any(text in utterance.text for text in self.blocked_texts):
            assert self.allowed.acquire(timeout=10)
        return np.full(count, 0.25, np.float32)


def test_contexts_do_not_wait_for_one_another(socket: Socket, server: Served) -> None:
    turns = _Turns()
    turns.blocked_texts = {"slow"}
    server.script.render = turns
    socket.create("a")
    socket.create("b", voiceId="bob", audioConfig={"audioEncoding": "PCM", "sampleRateHertz": 8000})
    socket.send({"send_text": {"text": "A slow one.", "flush_context": {}}}, "a")
    socket.send({"send_text": {"text": "A quick one.", "flush_context": {}}}, "b")
    results = socket.until("flushCompleted", "b")
    assert {result["contextId"] for result in results} == {"b"}
    turns.allowed.release(20)
    assert {result["contextId"] for result in socket.until("flushCompleted", "a")} == {"a"}


def test_a_sixth_context_is_refused_and_the_others_go_on(socket: Socket) -> None:
    for name in "abcde":
        socket.create(name)
    socket.send({"create": {"voiceId": "anna"}}, "f")
    result = socket.receive()["result"]
    assert (result["contextId"], result["status"]["code"]) == ("f", 8)
    socket.send({"cancel_context": {}}, "a")
    socket.until("contextClosed", "a")
    socket.create("f")


def test_an_unnamed_context_is_an_error_among_several(socket: Socket) -> None:
    socket.create("a")
    socket.create("b")
    socket.send({"send_text": {"text": "Who?"}})
    error = socket.receive()["error"]
    assert (error["code"], error["details"]) == (3, [])
    assert "contextId" in error["message"]


# -- stopping --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [0, 1])
def test_a_cancel_works_at_once_while_speech_is_being_made(socket: Socket, server: Served, block: int) -> None:
    server.script.render = gate = Gate(block)
    socket.create()
    socket.send({"send_text": {"text": "word " * 60, "flush_context": {}}}, "c")
    socket.send({"send_text": {"text": "Never spoken.", "flush_context": {}}}, "c")
    socket.send({"send_text": {"text": "Nor buffered."}}, "c")
    assert gate.reached.wait(PATIENCE_S)
    socket.send({"cancel_context": {}}, "c")
    results = socket.until("contextClosed")
    assert "flushCompleted" not in _kinds(results)
    assert server.open_requests == 0
    gate.open()
    wait_until(lambda: len(server.script.cancelled) == 1)
    assert len(server.script.spoken) == 1
    assert socket.is_alive()


def test_a_context_that_is_closing_can_still_be_cancelled(socket: Socket, server: Served) -> None:
    server.script.render = gate = Gate()
    socket.create()
    socket.send({"send_text": {"text": "A long goodbye."}}, "c")
    socket.send({"close_context": {}}, "c")
    assert gate.reached.wait(PATIENCE_S)
    socket.send({"cancel_context": {}}, "c")
    assert _kinds(socket.until("contextClosed")) == ["contextClosed"]
    gate.open()
    assert socket.is_alive()


def test_messages_are_answered_while_speech_is_being_made(socket: Socket, server: Served) -> None:
    server.script.render = gate = Gate()
    socket.create("a")
    socket.send({"send_text": {"text": "Hello there.", "flush_context": {}}}, "a")
    assert gate.reached.wait(PATIENCE_S)
    socket.create("b")
    socket.send({"close_context": {}}, "b")
    socket.until("contextClosed", "b")
    gate.open()
    socket.until("flushCompleted", "a")


@pytest.mark.parametrize("block", [0, 1])
def test_a_socket_that_goes_away_takes_its_work_along(server: Served, block: int) -> None:
    server.script.render = gate = Gate(block)
    with open_socket(server) as socket:
        for name in ("a", "b"):
            socket.create(name)
        for name in ("a", "b"):
            socket.send({"send_text": {"text": "word " * 40, "flush_context": {}}}, name)
        wait_until(lambda: len(server.script.spoken) == 2)
        assert server.open_requests == 2
        assert gate.reached.wait(PATIENCE_S)
    wait_until(lambda: server.open_requests == 0)
    gate.open()
    wait_until(lambda: len(server.script.cancelled) == 2)


def test_a_client_that_does_not_read_holds_only_itself_up(server: Served) -> None:
    with open_socket(server, max_queue=1, close_timeout=0.1) as deaf, open_socket(server) as other:
        deaf.create(audioConfig={"audioEncoding": "PCM", "sampleRateHertz": 48000})
        for _ in range(20):
            deaf.send({"send_text": {"text": "word " * 190, "flush_context": {}}}, "c")
        other.create()
        other.send({"send_text": {"text": "Hello.", "flush_context": {}}}, "c")
        other.until("flushCompleted")
    server.wait_idle()


# -- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "{",
        "[]",
        "3",
        "null",
        '"x"',
        '{"contextId":5}',
        '{"hello":{}}',
        "{}",
        b"\xff",
        b"[1]",
        '{"create":null}',
        '{"hello":{},"contextId":"c"}',
    ],
)
def test_what_is_no_message_is_answered_and_harmless(socket: Socket, frame: str | bytes) -> None:
    socket.send(frame)
    answer = socket.receive()
    assert list(answer) == ["error"]
    assert sorted(answer["error"]) == ["code", "details", "message"]
    assert answer["error"]["code"] == 3
    assert socket.is_alive()


@pytest.mark.parametrize(
    ("config", "code", "named"),
    [
        ({}, 3, "voiceId"),
        ("anna", 3, "object"),
        ({"voiceId": "nobody"}, 5, "nobody"),
        ({"voiceId": "../anna"}, 5, "anna"),
        ({"voiceId": "anna", "audioConfig": {"audioEncoding": "X"}}, 3, "audioEncoding"),
        ({"voiceId": "anna", "bufferCharThreshold": -1}, 3, "bufferCharThreshold"),
        ({"voiceId": "anna", "maxBufferDelayMs": "soon"}, 3, "maxBufferDelayMs"),
        ({"voiceId": "anna", "num_steps": 0}, 3, "numSteps"),
    ],
)
def test_a_bad_configuration_is_a_status_of_its_context(socket: Socket, config: object, code: int, named: str) -> None:
    socket.send({"create": config}, "c")
    result = socket.receive()["result"]
    assert sorted(result) == ["contextId", "status"]
    assert (result["contextId"], result["status"]["code"], result["status"]["details"]) == ("c", code, [])
    assert named in result["status"]["message"]
    socket.create("c")


def test_an_unknown_voice_does_not_read_like_an_unknown_context(socket: Socket) -> None:
    # pipecat drops every error with code 5 that says "not found".
    socket.send({"create": {"voiceId": "nobody"}}, "c")
    assert "not found" not in socket.status()["message"].lower()


@pytest.mark.parametrize(
    "message",
    [
        {"send_text": {"text": "Hi"}},
        {"flush_context": {}},
        {"update_config": {}},
        {"close_context": {}},
        {"cancel_context": {}},
    ],
)
def test_an_unknown_context_is_not_found(socket: Socket, message: Json) -> None:
    socket.send(message, "ghost")
    status = socket.status()
    assert status["code"] == 5
    assert "not found" in status["message"].lower()
    socket.send(message)
    assert "not found" in socket.receive()["error"]["message"].lower()
    assert socket.is_alive()


def test_a_closing_context_takes_no_more_text(socket: Socket, server: Served) -> None:
    server.script.render = gate = Gate()
    socket.create()
    socket.send({"send_text": {"text": "Goodbye."}}, "c")
    socket.send({"close_context": {}}, "c")
    socket.send({"send_text": {"text": "One more thing."}}, "c")
    assert socket.status()["code"] == 5
    gate.open()
    socket.until("contextClosed")


def test_opening_a_context_twice_is_an_error_and_changes_nothing(socket: Socket) -> None:
    socket.create("c", modelId="first")
    socket.send({"create": {"voiceId": "bob"}}, "c")
    assert socket.status()["code"] == 3
    socket.send({"send_text": {"text": "Hello.", "flush_context": {}}}, "c")
    assert chunks(socket.until("flushCompleted"))[0]["usage"]["modelId"] == "first"


def test_a_text_that_is_too_long_is_refused_and_not_buffered(socket: Socket, server: Served) -> None:
    socket.create()
    socket.send({"send_text": {"text": "x" * 1001}}, "c")
    assert socket.status()["code"] == 3
    socket.send({"send_text": {"text": "Short.", "flush_context": {}}}, "c")
    socket.until("flushCompleted")
    assert _spoken(server) == ["[S1] Short."]


def test_unspoken_text_does_not_pile_up_without_end(socket: Socket, server: Served) -> None:
    server.script.render = gate = Gate()
    socket.create()
    for _ in range(52):
        socket.send({"send_text": {"text": "word " * 199, "flush_context": {}}}, "c")
    assert socket.status()["code"] == 8
    socket.send({"cancel_context": {}}, "c")
    gate.open()


def test_empty_flushes_do_not_pile_up_without_end(socket: Socket, server: Served) -> None:
    server.script.render = gate = Gate()
    socket.create()
    socket.send({"send_text": {"text": "Hello."}}, "c")
    for _ in range(1002):
        socket.send({"flush_context": {}}, "c")
    assert socket.status()["code"] == 8
    socket.send({"cancel_context": {}}, "c")
    gate.open()


def test_a_bad_update_leaves_the_settings_as_they_were(socket: Socket) -> None:
    socket.create()
    for change in ({"voiceId": "nobody"}, {"audioConfig": {"sampleRateHertz": 1}}, 5):
        socket.send({"update_config": change}, "c")
        assert socket.status()["code"] in (3, 5)
    socket.send({"update_config": {}}, "c")
    assert socket.until("contextUpdated")[-1]["contextUpdated"]["audioConfig"]["sampleRateHertz"] == 24000


def test_a_failed_flush_is_a_status_and_the_next_one_works(socket: Socket, server: Served) -> None:
    socket.create()
    server.script.fail_before = True
    socket.send({"send_text": {"text": "Fails.", "flush_context": {}}}, "c")
    assert socket.status() == {"code": 13, "message": "Generation failed.", "details": []}
    server.script.fail_before = False
    socket.send({"send_text": {"text": "Works.", "flush_context": {}}}, "c")
    assert _kinds(socket.until("flushCompleted")) == ["audioChunk", "flushCompleted"]


def test_a_busy_server_is_code_8(socket: Socket, server: Served) -> None:
    socket.create()
    server.script.refuse = True
    socket.send({"send_text": {"text": "Hello.", "flush_context": {}}}, "c")
    assert socket.status()["code"] == 8


# -- the connection --------------------------------------------------------------------------------------------------


def test_a_handshake_without_the_key_is_refused(serve: Serve) -> None:
    server = serve(api_keys=("k-1",))
    with pytest.raises(InvalidStatus) as caught, open_socket(server, additional_headers={"Authorization": "Basic no"}):
        pass
    assert caught.value.response.status_code == 401
    with open_socket(server, additional_headers={"Authorization": "Basic k-1"}) as socket:
        assert socket.is_alive()


def test_audio_is_sent_as_it_is_made(socket: Socket, server: Served) -> None:
    server.script.render = gate = Gate(block=1)
    socket.create(timestampType="WORD")
    socket.send({"send_text": {"text": "word " * 40, "flush_context": {}}}, "c")
    first: Json = socket.receive()["result"]["audioChunk"]
    assert len(base64.b64decode(first["audioContent"])) > 1000
    gate.open()
    socket.until("flushCompleted")


def test_many_sockets_at_once_are_all_served(server: Served) -> None:
    def talk(results: list[Any]) -> None:
        with open_socket(server) as socket:
            socket.create()
            lengths = []
            for _ in range(3):
                socket.send({"send_text": {"text": "Hello.", "flush_context": {}}}, "c")
                lengths.append(len(audio_of(chunks(socket.until("flushCompleted")))))
            results.append(lengths)

    spoken: list[list[int]] = []
    threads = [threading.Thread(target=talk, args=(spoken,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(spoken) == 8
    for lengths in spoken:
        assert lengths[0] == spoken[0][0]  # the others may have a pause before them
        assert all(0 <= length - lengths[0] <= JoinRules().pause_ms / 1000 * 2 * 44_100 for length in lengths)
