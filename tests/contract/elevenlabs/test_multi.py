"""WS /v1/text-to-speech/{voice_id}/multi-stream-input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import pytest

from echo.audio.join import JoinRules
from tests.contract.elevenlabs.calls import Json, Socket, aligned, audio_of, multi, open_socket
from tests.contract.serving import PATIENCE_S, Gate, Serve, Served, wait_until

#: Three blocks of audio.
LONG = "This sentence goes on and on, " * 5


@pytest.fixture
def socket(server: Served) -> Iterator[Socket]:
    with multi(server) as opened:
        yield opened


@pytest.fixture
def auto(server: Served) -> Iterator[Socket]:
    with multi(server, auto_mode="true") as opened:
        yield opened


def spoken(server: Served) -> list[str]:
    return [utterance.text.removeprefix("[S1] ") for utterance in server.script.spoken]


def seconds(messages: list[Json]) -> float:
    return len(audio_of(messages)) / 48_000


def errors(messages: list[Json]) -> list[str]:
    return [message["error"] for message in messages if "error" in message]


# -- the life of a context -------------------------------------------------------------------------------------------


def test_a_context_speaks_and_ends(server: Served, socket: Socket) -> None:
    socket.send(text=" ", context_id="c", voice_settings={"stability": 0.5, "speed": 1.0})
    socket.send(text="Hello there. ", context_id="c", flush=True)
    socket.send(context_id="c", close_context=True)
    *messages, final = socket.until_final()
    assert spoken(server) == ["Hello there."]
    assert all(message["contextId"] == message["context_id"] == "c" for message in [*messages, final])
    assert all(message["isFinal"] is False for message in messages)
    assert all(message["alignment"] is None for message in messages if message["audio"])
    assert final == {"contextId": "c", "context_id": "c", "audio": None, "isFinal": True, "is_final": True}
    assert seconds(messages) > 0.5


def test_a_context_without_text_ends_once_and_without_audio(server: Served, socket: Socket) -> None:
    socket.send(text=" ", context_id="c", voice_settings={})
    socket.send(text="", context_id="c", flush=True)
    socket.send(context_id="c", close_context=True)
    socket.send(context_id="c", close_context=True)
    assert len(socket.until_final("c")) == 1
    assert socket.is_alive()
    assert spoken(server) == []


def test_both_spellings_of_the_id_mean_the_same(socket: Socket) -> None:
    socket.send(text="Hello. ", contextId="c")
    socket.send(context_id="c", flush=True)
    socket.send(contextId="c", close_context=True)
    assert seconds(socket.until_final("c")) > 0.2


def test_an_unknown_context_with_text_is_opened_and_an_unknown_one_without_is_not(
    server: Served, socket: Socket
) -> None:
    for message in ({"flush": True}, {"close_context": True}, {"text": ""}, {"text": "", "flush": True}):
        socket.send({**message, "context_id": "unknown"})
    socket.send(text="Hello. ", context_id="c", flush=True)
    socket.send(context_id="c", close_context=True)
    assert {message["contextId"] for message in socket.until_final()} == {"c"}
    assert spoken(server) == ["Hello."]


def test_messages_without_an_id_have_a_context_of_their_own(socket: Socket) -> None:
    socket.send(text="Hello. ", flush=True)
    socket.send(close_context=True)
    messages = socket.until_final()
    assert seconds(messages) > 0.2
    assert "contextId" not in messages[-1]


def test_a_keep_alive_without_a_context_does_nothing(server: Served, socket: Socket) -> None:
    socket.send(text="")
    socket.send(text="Hello. ", context_id="c", flush=True)
    socket.send(text="")
    socket.send(context_id="c", close_context=True)
    assert errors(socket.until_final("c")) == []
    assert spoken(server) == ["Hello."]


def test_an_id_may_be_used_again(server: Served, socket: Socket) -> None:
    for text in ("One. ", "Two. "):
        socket.send(text=" ", context_id="c", voice_settings={"speed": 1.1})
        socket.send(text=text, context_id="c", flush=True)
        socket.send(context_id="c", close_context=True)
        assert seconds(socket.until_final("c")) > 0.1
    assert spoken(server) == ["One.", "Two."]


def test_an_id_that_is_used_again_too_early_waits_for_its_turn(server: Served, socket: Socket) -> None:
    server.script.render = gate = Gate()
    for text in ("One. ", "Two. "):
        socket.send(text=text, context_id="c", flush=True)
        socket.send(context_id="c", close_context=True)
    assert gate.reached.wait(PATIENCE_S)
    gate.open()
    assert aligned(socket.until_final("c")).text == "One. "
    assert aligned(socket.until_final("c")).text == "Two. "
    assert spoken(server) == ["One.", "Two."]


def test_contexts_do_not_mix(server: Served, socket: Socket) -> None:
    levels = {"One.": 0.2, "Two.": 0.4, "Three.": 0.6}
    server.script.render = lambda utterance, block, count: np.full(
        count, levels[utterance.text.removeprefix("[S1] ")], np.float32
    )
    for text in levels:
        socket.send(text=text + " ", context_id=text)
    for text in levels:
        socket.send(context_id=text, flush=True)
        socket.send(context_id=text, close_context=True)
    messages: list[Json] = []
    for _ in levels:
        messages += socket.until_final()
    for text, level in levels.items():
        own = [message for message in messages if message["contextId"] == text]
        samples = np.frombuffer(audio_of(own), "<i2")
        assert round(float(np.median(samples)) / 32768, 1) == level
        assert aligned(own).text == text + " "
        assert [message["isFinal"] for message in own].count(True) == 1


# -- interruptions ---------------------------------------------------------------------------------------------------


def test_what_was_flushed_is_finished_after_the_close(server: Served, socket: Socket) -> None:
    server.script.render = gate = Gate(block=1)
    socket.send(text=LONG, context_id="c", flush=True)
    socket.send(text="", context_id="c")  # a keep-alive changes nothing
    socket.send(context_id="c", close_context=True)
    assert gate.reached.wait(PATIENCE_S)
    gate.open()
    messages = socket.until_final("c")
    assert seconds(messages) == pytest.approx(len(server.script.spoken[0].text) * 0.06, abs=0.2)
    assert aligned(messages).text == LONG


@pytest.mark.parametrize("flushed", [True, False])
def test_a_close_after_text_without_a_flush_stops_at_once(server: Served, socket: Socket, flushed: bool) -> None:
    server.script.render = gate = Gate(block=1)
    if flushed:
        socket.send(text=LONG, context_id="c", flush=True)
        socket.send(text="And more. ", context_id="c")
    else:
        socket.send(text=LONG, context_id="c", try_trigger_generation=True)
    socket.send(text="", context_id="c")  # a keep-alive changes nothing
    assert gate.reached.wait(PATIENCE_S)
    socket.send(context_id="c", close_context=True)
    *messages, final = socket.until_final("c")  # although the engine is still at it
    assert final["isFinal"]
    assert seconds(messages) < 2
    assert aligned(messages).text == ""
    assert not gate.expired
    gate.open()
    server.wait_idle()
    wait_until(lambda: len(server.script.cancelled) == 1)
    assert socket.is_alive()


def test_a_second_close_stops_at_once(server: Served, socket: Socket) -> None:
    server.script.render = gate = Gate(block=1)
    socket.send(text=LONG, context_id="c", flush=True)
    socket.send(context_id="c", close_context=True)
    assert gate.reached.wait(PATIENCE_S)
    socket.send(context_id="c", close_context=True)
    socket.until_final("c")
    assert not gate.expired
    gate.open()
    server.wait_idle()
    wait_until(lambda: len(server.script.cancelled) == 1)
    assert socket.is_alive()  # and nothing else comes for the context


def test_a_client_that_hangs_up_stops_everything(server: Served) -> None:
    server.script.render = gate = Gate(block=1)
    with multi(server) as socket:
        for name in ("a", "b"):
            socket.send(text=LONG, context_id=name, flush=True)
        wait_until(lambda: server.open_requests == 2)
        assert gate.reached.wait(PATIENCE_S)
    server.wait_idle()
    assert not gate.expired
    gate.open()


# -- the end of the connection ---------------------------------------------------------------------------------------


def test_the_server_closes_when_it_is_asked_to_and_finishes_what_was_flushed(server: Served, socket: Socket) -> None:
    socket.send(text="Flushed. ", context_id="a", flush=True)
    socket.send(text="Not flushed. ", context_id="b")
    socket.send(text=" ", context_id="c")
    socket.send(close_socket=True)
    socket.send(text="Too late. ", context_id="d", flush=True)
    messages, code = socket.rest()
    assert code == 1000
    assert sorted(message["contextId"] for message in messages if message["isFinal"]) == ["a", "b", "c"]
    assert aligned(messages).text == "Flushed. "
    assert spoken(server) == ["Flushed."]


def test_an_unused_socket_is_closed_at_once_when_asked(socket: Socket) -> None:
    socket.send(close_socket=True)
    assert socket.rest() == ([], 1000)


def test_a_silent_client_is_let_go(server: Served) -> None:
    with multi(server, inactivity_timeout=0.1) as socket:
        assert socket.rest() == ([], 1000)


# -- when text is spoken ---------------------------------------------------------------------------------------------


def test_text_waits_for_a_flush(server: Served, socket: Socket) -> None:
    for token in ("Hel", "lo the", "re. How ", "are you?"):
        socket.send(text=token, context_id="c")
    socket.send(context_id="c", flush=True)
    socket.send(context_id="c", close_context=True)
    assert aligned(socket.until_final("c")).text == "Hello there. How are you? "
    assert spoken(server) == ["Hello there. How are you?"]


def test_a_lone_blank_between_two_words_is_one(server: Served, socket: Socket) -> None:
    for token in (" ", "Hello", " ", " ", "there", " ", "."):
        socket.send(text=token, context_id="c")
    socket.send(context_id="c", flush=True)
    socket.send(context_id="c", close_context=True)
    assert aligned(socket.until_final("c")).text == "Hello there . "


def test_the_schedule_says_after_how_many_characters_text_is_spoken(server: Served, socket: Socket) -> None:
    config = {"chunk_length_schedule": [50, 90]}
    socket.send(text=" ", context_id="c", generation_config=config)
    sentences = [f"This is sentence number {number}. " for number in range(1, 8)]
    for sentence in sentences:
        socket.send(text=sentence, context_id="c")
    socket.send(context_id="c", flush=True)
    socket.send(context_id="c", close_context=True)
    messages = socket.until_final("c")
    assert aligned(messages).text == "".join(sentences)
    lengths = [len(text) for text in spoken(server)]
    assert 50 <= lengths[0] < 90 <= min(lengths[1:-1])


def test_by_default_the_first_120_characters_are_waited_for(server: Served, socket: Socket) -> None:
    socket.send(text="x" * 60 + " ", context_id="c")
    socket.send(text="y" * 50 + " ", context_id="c")
    socket.send(text="", context_id="c")
    assert spoken(server) == []
    socket.send(text="z" * 20 + " ", context_id="c")
    wait_until(lambda: len(spoken(server)) == 1)


def test_a_trigger_speaks_what_is_whole(server: Served, socket: Socket) -> None:
    socket.send(text="First this, ", context_id="c", try_trigger_generation=True)
    socket.send(text="then th", context_id="c", try_trigger_generation=True)
    wait_until(lambda: spoken(server) == ["First this,"])
    socket.send(text="at. ", context_id="c", flush=True)
    socket.send(context_id="c", close_context=True)
    assert aligned(socket.until_final("c")).text == "First this, then that. "
    assert spoken(server) == ["First this,", "then that."]


def test_auto_mode_speaks_every_message(server: Served, auto: Socket) -> None:
    for text in ("First phrase ", "Second phrase."):
        auto.send(text=text, context_id="c")
    wait_until(lambda: spoken(server) == ["First phrase", "Second phrase."])


def test_auto_mode_does_not_speak_half_a_word(server: Served, auto: Socket) -> None:
    auto.send(text="Hello th", context_id="c")
    auto.send(text="ere. ", context_id="c")
    auto.send(text="And th", context_id="c")
    auto.send(text="is", context_id="c", flush=True)
    auto.send(context_id="c", close_context=True)
    assert aligned(auto.until_final("c")).text == "Hello there. And this "
    assert spoken(server) == ["Hello there.", "And this"]


@pytest.mark.parametrize("word", ["don't", "well-known", "$5", "and/or"])
def test_auto_mode_does_not_speak_half_a_word_at_a_mark_within_it(server: Served, auto: Socket, word: str) -> None:
    cut = next(at for at, char in enumerate(word, 1) if not char.isalnum())
    auto.send(text=f"It is {word[:cut]}", context_id="c")
    auto.send(text=f"{word[cut:]} now. ", context_id="c")
    auto.send(context_id="c", flush=True)
    auto.send(context_id="c", close_context=True)
    assert aligned(auto.until_final("c")).text == f"It is {word} now. "
    assert len(spoken(server)) == 1


# -- times -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sync", [False, True])
def test_the_spans_cover_the_audio(server: Served, sync: bool) -> None:
    with multi(server, sync_alignment=str(sync).lower()) as socket:
        text = "Well, it rains. Shall we stay at home? I would like that. "
        for sentence in ("Well, it rains. ", "Shall we stay at home? ", "I would like that. "):
            socket.send(text=sentence, context_id="c", flush=True)
        socket.send(context_id="c", close_context=True)
        messages = socket.until_final("c")
    found = aligned(messages, restart=not sync)
    assert found.text == text
    assert found.end_ms / 1000 == pytest.approx(seconds(messages), abs=0.13)  # what the last sound leaves behind
    assert sorted(found.starts_ms) == found.starts_ms
    # A sentence takes 60 ms a character, speaker's tag included; the second begins after the first and the pause.
    second = found.starts_ms[text.index("Shall")]
    assert second / 1000 == pytest.approx(len("[S1] Well, it rains.") * 0.06, abs=0.15)


def test_the_pause_belongs_to_the_blank_before_the_words(server: Served, socket: Socket) -> None:
    socket.send(text="Well, it rains. Shall we ", context_id="c", try_trigger_generation=True)
    socket.send(text="stay? ", context_id="c", flush=True)
    socket.send(context_id="c", close_context=True)
    messages = socket.until_final("c")
    assert aligned(messages).text == "Well, it rains. Shall we stay? "
    (pause,) = {JoinRules().pause_ms}
    first, second = (message["alignment"] for message in messages if message.get("alignment"))
    assert first["chars"][-1] == " "
    assert second["charDurationsMs"][0] > 0
    assert second["charDurationsMs"][0] <= pause + 150  # and the letter itself


# -- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("mp3_22050_32", "mp3_24000_48", "mp3_44100_192", "opus_48000_32", "opus_48000_192"),
        *("pcm_8000", "pcm_16000", "pcm_22050", "pcm_32000", "pcm_44100", "pcm_48000", "ulaw_8000", "alaw_8000"),
    ],
)
def test_every_format_has_its_name(server: Served, name: str) -> None:
    with multi(server, output_format=name) as socket:
        for text in ("Hello there. ", "How are you? "):
            socket.send(text=text, context_id="c", flush=True)
        socket.send(context_id="c", close_context=True)
        messages = socket.until_final("c")
    data, length = audio_of(messages), aligned(messages).end_ms / 1000
    kind, rate = name.split("_")[:2]
    if kind in ("pcm", "ulaw", "alaw"):
        assert len(data) / int(rate) / (2 if kind == "pcm" else 1) == pytest.approx(length, abs=0.13)
    elif kind == "opus":
        assert data.count(b"OpusHead") == 1  # one stream
    else:
        assert len(data) * 8 / int(name.split("_")[2]) / 1000 == pytest.approx(length, abs=0.25)


def test_the_speed_is_that_of_the_context(socket: Socket) -> None:
    lengths = {}
    for speed in (0.7, 1.2):
        socket.send(text=" ", context_id="c", voice_settings={"speed": speed})
        socket.send(text="Hello there. ", context_id="c", flush=True)
        socket.send(context_id="c", close_context=True)
        lengths[speed] = seconds(socket.until_final("c"))
    assert lengths[0.7] == pytest.approx(lengths[1.2] * 1.2 / 0.7, rel=0.1)


def test_a_seed_of_the_address_counts(server: Served) -> None:
    with multi(server, seed=42) as socket:
        socket.send(text="Hello there. ", context_id="c", flush=True)
        socket.send(context_id="c", close_context=True)
        socket.until_final("c")
    assert server.script.spoken[0].seed == 42


def test_only_the_first_message_of_a_context_may_have_settings(server: Served, socket: Socket) -> None:
    socket.send(text=" ", context_id="c", voice_settings={"speed": 1.1})
    socket.send(text="Hello. ", context_id="c", voice_settings={"speed": 1.1})  # the same is no change
    socket.send(text="Refused. ", context_id="c", voice_settings={"speed": 0.9})
    socket.send(text="Refused. ", context_id="c", generation_config={"chunk_length_schedule": [50]})
    socket.send(context_id="c", flush=True)
    socket.send(context_id="c", close_context=True)
    messages = socket.until_final("c")
    assert errors(messages) == ["settings_not_allowed"] * 2
    assert spoken(server) == ["Hello."]


# -- what is wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "named"),
    [
        ("{", "JSON"),
        (b"\xff", "JSON"),
        ("[]", "object"),
        ({"text": 5}, "text"),
        ({"text": "Hello.", "voice_settings": {"speed": 9}}, "voice_settings.speed"),
        ({"text": "Hello.", "voice_settings": {"stability": "x"}}, "voice_settings.stability"),
        ({"text": "Hello.", "voice_settings": []}, "voice_settings"),
        ({"text": "Hello.", "generation_config": {"chunk_length_schedule": [5]}}, "chunk_length_schedule"),
        ({"text": "Hello.", "generation_config": {"chunk_length_schedule": []}}, "chunk_length_schedule"),
        ({"text": "Hello.", "context_id": 5}, "context_id"),
        ({"text": "Hello.", "context_id": "x" * 257}, "context_id"),
        ({"context_id": "c", "flush": "perhaps"}, "flush"),
        ({"text": "x" * 60_000, "context_id": "c"}, "text"),
    ],
)
def test_a_wrong_message_is_answered_and_the_socket_stays_open(socket: Socket, message: object, named: str) -> None:
    socket.send(message)
    answer = socket.receive()
    assert (answer["code"], named in answer["message"]) == (1008, True)
    if isinstance(message, dict) and message.get("context_id") == "c":
        assert answer["contextId"] == answer["context_id"] == "c"
        socket.send(context_id="c", close_context=True)
    assert socket.is_alive()


def test_a_failure_ends_its_context_only(server: Served, socket: Socket) -> None:
    server.script.fail_before = True
    socket.send(text="Hello. ", context_id="a", flush=True)
    messages = socket.until_final("a")
    assert errors(messages) == ["generation_failed"]
    assert messages[0]["code"] == 1011
    server.script.fail_before = False
    socket.send(text="Hello. ", context_id="b", flush=True)
    socket.send(context_id="b", close_context=True)
    assert seconds(socket.until_final("b")) > 0.2


def test_a_busy_server_says_so(serve: Serve) -> None:
    served = serve(max_concurrent=1, max_queue=0)
    served.script.render = gate = Gate()
    with multi(served) as socket:
        socket.send(text="Hello. ", context_id="a", flush=True)
        assert gate.reached.wait(PATIENCE_S)
        socket.send(text="Hello. ", context_id="b", flush=True)
        assert errors(socket.until_final("b")) == ["system_busy"]
        gate.open()


def test_a_sixth_context_is_refused_and_the_socket_stays_open(server: Served, socket: Socket) -> None:
    for number in range(6):
        socket.send(text=" ", context_id=f"c{number}")
    refused = socket.receive()
    assert (refused["contextId"], refused["error"], refused["code"]) == ("c5", "max_active_conversations", 1008)
    socket.send(context_id="c0", close_context=True)
    socket.until_final("c0")
    assert socket.is_alive()


def test_contexts_that_are_still_speaking_do_not_take_the_places_of_others(server: Served, socket: Socket) -> None:
    server.script.render = gate = Gate()
    for number in range(25):  # as quick interruptions of livekit do
        socket.send(text="Hello. ", context_id=f"c{number}", flush=True)
        socket.send(context_id=f"c{number}", close_context=True)
    answers = [socket.receive() for _ in range(5)]
    assert {answer["error"] for answer in answers} == {"max_active_conversations"}  # but not any number of them
    gate.open()
    assert len([socket.until_final() for _ in range(20)]) == 20
    assert socket.is_alive()


def test_a_reader_that_does_not_read_holds_only_itself_up(server: Served) -> None:
    server.script.audio_s_per_char = 1.0
    with ExitStack() as stack:
        stalled = stack.enter_context(open_socket(server, "/multi-stream-input", output_format="pcm_48000"))
        stalled.connection.close_timeout = 0.1
        for number in range(4):
            stalled.send(text="Hello there. " * 10, context_id=f"c{number}", flush=True)
        other = stack.enter_context(multi(server))
        assert other.is_alive()
        server.script.audio_s_per_char = 0.06
        other.send(text="Hello. ", context_id="c", flush=True)
        other.send(context_id="c", close_context=True)
        assert seconds(other.until_final("c")) > 0.2
