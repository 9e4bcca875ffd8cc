"""WS /ws/twilio and /calls: whole calls, as Twilio and an agent hold them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from compat.twilio.call import MAX_TURNS
from compat.twilio.playback import LEAD_S
from echo.types import Audio, Utterance
from tests.contract.serving import PATIENCE_S, Gate, Serve, Served, wait_until
from tests.contract.twilio.phone import SID, Phone, dial, post, whole

#: About 20 s.
LONG = "The rain has stopped, and we can go for a walk now. " * 7


@pytest.fixture
def phone(server: Served) -> Iterator[Phone]:
    with dial(server) as dialled:
        yield dialled


@pytest.fixture
def call(phone: Phone, server: Served) -> Phone:
    """A call that has begun and says nothing."""
    phone.start(voice_id="anna")
    wait_until(lambda: post(server, "clear").status_code == 200)
    phone.until("clear")
    return phone


def spoken(server: Served) -> list[str]:
    return [utterance.text.removeprefix("[S1] ") for utterance in server.script.spoken]


# -- speaking --------------------------------------------------------------------------------------------------------


def test_the_text_of_the_parameters_is_spoken_without_gaps(server: Served, phone: Phone) -> None:
    phone.start(voice_id="anna", text=LONG, seed="7", unknown="ignored")
    same = whole(server, LONG, 7)
    assert len(same) > 15 * 8000
    assert phone.hears(len(same)) == same


def test_the_parameters_choose_voice_and_preset(server: Served, phone: Phone) -> None:
    phone.start(voice_id="bob", preset="realtime", text="Hello there.")
    phone.until("mark")
    assert server.script.spoken[0].plan.blocks[0].size == 16


def test_an_agent_says_turn_after_turn(server: Served, call: Phone) -> None:
    for turn, text in enumerate(("Hello there, caller.", "What can I do for you?"), 1):
        answer = post(server, "say", {"text": text})
        assert (answer.status_code, answer.json()) == (200, {"turn": turn})
        while not call.until("mark")["mark"]["name"].startswith(f"{turn}."):
            pass
    assert spoken(server) == ["Hello there, caller.", "What can I do for you?"]


def test_a_turn_may_come_in_pieces(server: Served, call: Phone) -> None:
    for piece in ("I have found your order. It will arr", "ive on Mon", "day"):
        assert post(server, "say", {"text": piece, "end": False}).json() == {"turn": 1}
    call.until("mark")  # the first sentence, while the rest is still being written
    assert post(server, "say", {"text": "."}).json() == {"turn": 1}
    wait_until(lambda: len(server.script.spoken) == 2)
    assert spoken(server) == ["I have found your order.", "It will arrive on Monday."]
    assert post(server, "say", {"text": "Anything else?"}).json() == {"turn": 2}


def test_turns_are_spoken_in_order(server: Served, call: Phone) -> None:
    gate = Gate()
    server.script.render = gate
    texts = [f"This is turn {number}." for number in range(3)]
    for text in texts:
        post(server, "say", {"text": text})
    gate.open()
    wait_until(lambda: len(server.script.spoken) == 3)
    assert spoken(server) == texts


def test_audio_is_sent_ahead_but_not_too_far(server: Served, call: Phone) -> None:
    """One and a half minutes are made at once; the line gets 30 s, and more as it plays."""
    call.plays = False
    post(server, "say", {"text": LONG * 4})
    while len(call.audio) < LEAD_S * 8000:
        call.receive()
    while not call.quiet():
        pass
    assert len(call.audio) < (LEAD_S + 0.2) * 8000
    marks = [message for message in call.received if message["event"] == "mark"]
    assert len(marks) >= LEAD_S * 0.9
    call.returns(marks[9])
    while len(call.audio) < (LEAD_S + 9.8) * 8000:
        call.receive()
    while not call.quiet():
        pass
    assert len(call.audio) < (LEAD_S + 12) * 8000
    assert server.open_requests == 1
    post(server, "clear")
    assert server.open_requests == 0


def test_every_second_has_a_mark(server: Served, call: Phone) -> None:
    post(server, "say", {"text": LONG})
    wait_until(lambda: bool(server.script.spoken))
    seconds = 0.0
    for _ in range(100):
        message = call.receive()
        seconds = seconds + len(call.audio) / 8000 if message["event"] == "media" else 0.0
        call.audio = b""
        assert seconds <= 1.1


# -- interruptions ---------------------------------------------------------------------------------------------------


def test_an_interruption_stops_drops_and_clears_in_this_order(server: Served, call: Phone) -> None:
    gate = Gate(block=1)
    server.script.render = gate
    server.script.audio_s_per_char = 1.0
    post(server, "say", {"text": "This is a sentence."})
    post(server, "say", {"text": "It waits."})
    call.until("media")
    assert gate.reached.wait(PATIENCE_S)
    assert post(server, "clear").status_code == 200
    call.until("clear")
    gate.open()
    wait_until(lambda: len(server.script.cancelled) == 1)
    assert server.open_requests == 0
    assert len(server.script.spoken) == 1
    server.script.render, server.script.audio_s_per_char = None, 0.06
    before = len(call.received)
    assert post(server, "say", {"text": "The next turn."}).json() == {"turn": 3}
    mark = call.until("mark")
    assert mark["mark"]["name"].startswith("3.")
    assert {message["event"] for message in call.received[before:]} == {"media", "mark"}


def test_marks_of_what_was_cleared_come_back_and_count_for_nothing(server: Served, call: Phone) -> None:
    call.plays = False
    post(server, "say", {"text": LONG})
    old = [call.until("mark") for _ in range(5)]
    assert post(server, "clear").json() == {"heard": ""}
    call.until("clear")
    for mark in old:
        call.returns(mark)  # as Twilio does
    call.plays = True
    post(server, "say", {"text": "Yes, I am listening."})
    call.until("mark")


def test_what_was_heard_is_what_the_marks_say(server: Served, call: Phone) -> None:
    """The line has been sent 30 s and has played 3: what was sent does not count."""
    call.plays = False
    text = LONG * 2
    post(server, "say", {"text": text})
    while len(call.audio) < LEAD_S * 8000:
        call.receive()
    marks = [message for message in call.received if message["event"] == "mark"]
    call.returns(marks[2])
    while len(call.audio) < (LEAD_S + 2.8) * 8000:  # it has come back: there is room again
        call.receive()
    heard = post(server, "clear").json()["heard"]
    assert text.startswith(heard)
    assert 3 / 0.06 * 0.7 < len(heard) < 3 / 0.06 * 1.3  # the engine makes 60 ms of a character


def test_what_was_heard_to_its_end_was_not_interrupted(server: Served, call: Phone) -> None:
    post(server, "say", {"text": "Hello there."})
    call.until("mark")
    post(server, "say", {"text": "How are you?"})
    call.until("mark")
    wait_until(lambda: post(server, "clear").json() == {"heard": ""})


def test_clearing_nothing_clears_the_line(server: Served, call: Phone) -> None:
    assert post(server, "clear").json() == {"heard": ""}
    assert call.until("clear")


# -- the end ---------------------------------------------------------------------------------------------------------


def test_a_lost_connection_stops_everything(server: Served) -> None:
    gate = Gate(block=1)
    server.script.render = gate
    server.script.audio_s_per_char = 1.0
    with dial(server) as phone:
        phone.start(voice_id="anna", text="This is a sentence.")
        phone.until("media")
        assert gate.reached.wait(PATIENCE_S)
        phone.connection.socket.close()
    server.wait_idle()
    gate.open()
    wait_until(lambda: len(server.script.cancelled) == 1)
    answer = post(server, "say", {"text": "Hello?"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_stop_stops_and_closes(server: Served, call: Phone) -> None:
    gate = Gate(block=1)
    server.script.render = gate
    server.script.audio_s_per_char = 1.0
    post(server, "say", {"text": "This is a sentence."})
    call.until("media")
    call.send("stop", stop={"accountSid": "AC0", "callSid": "CA0"})
    assert call.closed() == 1000
    server.wait_idle()
    gate.open()


def test_closing_waits_until_all_is_heard(server: Served, call: Phone) -> None:
    call.plays = False
    post(server, "say", {"text": "Good bye. See you soon", "end": False})
    assert post(server, "close").json() == {"closing": True}
    assert post(server, "say", {"text": "One more thing."}).status_code == 400
    wait_until(lambda: spoken(server) == ["Good bye.", "See you soon"])
    server.wait_idle()
    while not call.quiet():
        pass
    for message in list(call.received):
        if message["event"] == "mark":
            call.returns(message)
    call.plays = True
    assert call.closed() == 1000
    assert post(server, "say", {"text": "Hello?"}).status_code == 404


def test_closing_now_does_not_wait(server: Served, call: Phone) -> None:
    call.plays = False
    post(server, "say", {"text": LONG})
    call.until("mark")
    assert post(server, "close", {"now": True}).json() == {"closing": True}
    call.until("clear")
    assert call.closed() == 1000


def test_a_call_may_close_by_itself(server: Served, phone: Phone) -> None:
    phone.start(text="Your parcel has arrived.", close="true")
    assert phone.closed() == 1000
    assert len(phone.audio) > 8000
    assert len(server.script.spoken) == 1


# -- what is ignored, and what is refused ----------------------------------------------------------------------------


def test_what_the_caller_says_and_dials_is_ignored(server: Served, call: Phone) -> None:
    call.says(10)
    call.send("dtmf", dtmf={"track": "inbound_track", "digit": "1"})
    call.send("something new", of={"some": ["kind"]})
    for junk in ("", "{", "[]", "null", '{"event": 3}', '{"event": "mark"}', '{"event": "mark", "mark": {"name": 1}}'):
        call.connection.send(junk)
    call.connection.send(b"\xff\x00")
    post(server, "say", {"text": "Hello there."})
    call.until("mark")


@pytest.mark.parametrize(
    "parameters",
    [{"voice_id": "nobody"}, {"voice_id": "../anna"}, {"preset": "nothing"}, {"close": "perhaps"}, {"seed": "x"}],
)
def test_a_wrong_parameter_is_logged_and_the_call_closed(
    phone: Phone, parameters: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        phone.start(text="Hello.", **parameters)
        assert phone.closed() == 1008
    assert phone.received == []
    assert SID in caplog.text


def test_a_second_call_of_the_same_stream_is_refused(server: Served, call: Phone) -> None:
    with dial(server) as other:
        other.start(voice_id="anna")
        assert other.closed() == 1008
    post(server, "say", {"text": "The first one goes on."})
    call.until("mark")


def test_two_calls_at_a_time(server: Served, call: Phone) -> None:
    with dial(server, "MZ2", "CA2") as other:
        other.start(voice_id="bob", text="This is the other one.")
        other.until("mark")
        post(server, "say", {"text": "This is the one."})
        call.until("mark")
        post(server, "say", {"text": "And the other again."}, "MZ2")
        other.until("mark")


def test_more_turns_than_may_wait_are_refused(server: Served, call: Phone) -> None:
    gate = Gate()
    server.script.render = gate
    codes = [post(server, "say", {"text": "One turn of many."}).status_code for _ in range(MAX_TURNS + 1)]
    assert codes == [200] * MAX_TURNS + [429]
    gate.open()
    post(server, "clear")


@pytest.mark.parametrize(
    ("body", "param"), [({"text": ""}, "text"), ({}, "text"), ({"text": 3}, "text"), ({"end": "x"}, "end"), ([], None)]
)
def test_what_cannot_be_said(server: Served, call: Phone, body: object, param: str | None) -> None:
    answer = post(server, "say", body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_a_call_goes_by_its_call_sid_as_well(server: Served, call: Phone) -> None:
    """An agent knows that one from the start: Twilio asks for the TwiML with it."""
    assert post(server, "say", {"text": "Hello there."}, "CA0").json() == {"turn": 1}
    call.until("mark")
    call.send("stop", stop={})
    assert call.closed() == 1000
    assert post(server, "say", {"text": "Hello?"}, "CA0").status_code == 404


@pytest.mark.parametrize("action", ["say", "clear", "close"])
def test_there_is_no_such_call(server: Served, action: str) -> None:
    assert post(server, action, {"text": "Hello?"}, "MZnone").status_code == 404


def test_a_passage_that_fails_is_logged_and_the_call_goes_on(
    server: Served, call: Phone, caplog: pytest.LogCaptureFixture
) -> None:
    server.script.fail_before = True
    with caplog.at_level(logging.WARNING):
        post(server, "say", {"text": "This one fails."})
        wait_until(lambda: "a passage was not spoken" in caplog.text)
    server.script.fail_before = False
    post(server, "say", {"text": "This one does not."})
    call.until("mark")


# -- keys ------------------------------------------------------------------------------------------------------------


def test_twilio_brings_the_key_as_a_parameter(serve: Serve) -> None:
    server = serve(api_keys=("right",))
    with dial(server) as phone:
        phone.start(voice_id="anna", text="Hello there.", api_key="right")
        phone.until("mark")
        assert post(server, "say", {"text": "Hello."}).status_code == 401
    for key in ("wrong", ""):
        with dial(server) as phone:
            phone.start(voice_id="anna", text="Hello there.", api_key=key)
            assert phone.closed() == 1008
            assert phone.received == []
    with dial(server, additional_headers={"Authorization": "Bearer right"}) as phone:
        phone.start(voice_id="anna", text="Hello there.")
        phone.until("mark")
    with pytest.raises(InvalidStatus), dial(server, additional_headers={"Authorization": "Bearer wrong"}):
        pass


def test_it_can_be_switched_off(serve: Serve) -> None:
    server = serve(twilio_compat=False)
    with pytest.raises(InvalidStatus), dial(server):
        pass
    assert post(server, "say", {"text": "Hello."}).status_code == 404


# -- an agent's socket -----------------------------------------------------------------------------------------------


@pytest.fixture
def agent(server: Served, call: Phone) -> Iterator[ClientConnection]:
    with connect(f"{server.ws_url}/calls/{SID}/say", open_timeout=PATIENCE_S, proxy=None) as opened:
        yield opened


def test_an_agent_streams_text(server: Served, call: Phone, agent: ClientConnection) -> None:
    text = "I have found your order. It will arrive on Monday. Is there anything else?"
    for start in range(0, len(text), 6):
        agent.send(json.dumps({"text": text[start : start + 6]}))
    call.until("mark")
    agent.send(json.dumps({"end": True}))
    wait_until(lambda: " ".join(spoken(server)) == text)
    agent.send(json.dumps({"text": "A second turn.", "end": True}))
    while not call.received or not call.received[-1].get("mark", {}).get("name", "").startswith("2."):
        call.receive()


def test_an_agent_interrupts_and_hears_what_was_heard(server: Served, call: Phone, agent: ClientConnection) -> None:
    call.plays = False
    agent.send(json.dumps({"text": LONG}))
    agent.send(json.dumps({"end": True}))
    call.until("mark")
    agent.send(json.dumps({"clear": True, "text": "Go ahead, please.", "end": True}))
    assert json.loads(agent.recv(PATIENCE_S)) == {"heard": ""}
    call.until("clear")
    call.until("mark")
    assert spoken(server)[-1] == "Go ahead, please."


@pytest.mark.parametrize("message", ["{", "[]", "{}", '{"text": 3}', '{"end": true}'])
def test_an_agents_mistake_is_answered(call: Phone, agent: ClientConnection, message: str) -> None:
    agent.send(message)
    assert set(json.loads(agent.recv(PATIENCE_S))) == {"error"}
    agent.send(json.dumps({"text": "Hello there.", "end": True}))
    call.until("mark")


def test_what_an_agent_has_written_is_said_when_it_leaves(server: Served, call: Phone, agent: ClientConnection) -> None:
    agent.send(json.dumps({"text": "Half a sentence and"}))
    agent.close()
    call.until("mark")
    assert spoken(server) == ["Half a sentence and"]


def test_an_agents_socket_ends_with_the_call(call: Phone, agent: ClientConnection) -> None:
    call.send("stop", stop={})
    with pytest.raises(ConnectionClosed) as closed:
        agent.recv(PATIENCE_S)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1000


def test_an_agent_of_no_call_is_refused(server: Served) -> None:
    with pytest.raises(InvalidStatus) as refused, connect(f"{server.ws_url}/calls/MZnone/say", proxy=None):
        pass
    assert refused.value.response.status_code == 404


# -- pipecat ---------------------------------------------------------------------------------------------------------


async def test_pipecats_serializer_reads_our_frames_and_writes_the_same(server: Served, phone: Phone) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from loguru import logger
        from pipecat.frames.frames import InputAudioRawFrame, InterruptionFrame, OutputAudioRawFrame
        from pipecat.serializers.twilio import TwilioFrameSerializer

    logger.disable("pipecat")
    settings = TwilioFrameSerializer.InputParams(auto_hang_up=False, sample_rate=8000)
    serializer = TwilioFrameSerializer(SID, params=settings)
    serializer._sample_rate = 8000  # which a pipeline sets
    tone = render_tone(server)
    phone.start(voice_id="anna", text="Hello there.")
    phone.until("mark")
    heard = b""
    for message in phone.received:
        frame = await serializer.deserialize(json.dumps(message))
        if message["event"] == "media":
            assert isinstance(frame, InputAudioRawFrame)
            assert (frame.sample_rate, frame.num_channels) == (8000, 1)
            heard += frame.audio
    samples = np.frombuffer(heard, np.int16) / 32768
    assert len(samples) == len(phone.audio)
    middle = samples[len(samples) // 4 : len(samples) // 2]
    assert np.abs(middle - tone).max() < 0.02  # a step of mu-law at this level
    # What it would send to Twilio in our place has the same fields.
    audio = OutputAudioRawFrame(audio=b"\x00\x10" * 800, sample_rate=8000, num_channels=1)
    for frame, event in ((audio, "media"), (InterruptionFrame(), "clear")):
        theirs = json.loads(await serializer.serialize(frame) or "")
        post(server, "clear")
        ours = next(m for m in [*phone.received, phone.until("clear")] if m["event"] == event)
        assert theirs.keys() == ours.keys()
        assert theirs["streamSid"] == ours["streamSid"]
    logger.enable("pipecat")


def render_tone(server: Served) -> float:
    """Have the engine make a constant level, and return it."""

    def level(utterance: Utterance, block: int, count: int) -> Audio:
        return np.full(count, 0.25, np.float32)

    server.script.render = level
    return 0.25
