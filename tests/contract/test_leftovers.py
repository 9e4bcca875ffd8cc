"""What a request leaves behind: nothing, as soon as it is over, with the garbage collector off."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from echo.audio.compressed import CompressedEncoder
from echo.audio.encode import Output
from echo.audio.stretch import TimeStretch
from echo.engines.fake import FakeScript
from echo.engines.load import load_engine
from echo.scheduler.job import BlockJob
from echo.service import SpeechStream
from echo.settings import Settings
from echo.stream import FrameStream
from echo.types import SpeechRequest, Utterance
from tests.contract.serving import HANG_UP_S, PATIENCE_S, Served, serving, wait_until

#: What a request is made of: each would keep others alive, the voice among them, and encoders keep threads.
KINDS = (SpeechStream, FrameStream, BlockJob, Output, TimeStretch, CompressedEncoder, Utterance, SpeechRequest)
LINE = "One line. "
ROUNDS = 2
opened = partial(connect, open_timeout=PATIENCE_S, close_timeout=HANG_UP_S)
#: Two short blocks of one step each: what is left behind does not depend on how much is said.
SHORT = """
[tiny.default]
block_sizes = [16, 16]
num_steps = [1, 1]
nonstream_block_sizes = [16]
nonstream_num_steps = [1]
"""


@pytest.fixture(scope="module", autouse=True)
def nothing_older() -> Iterator[None]:
    """Only what is made from here on is looked at: a test process holds millions of other objects."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Only what nobody holds any more goes away."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.fixture(scope="module")
def tiny(voices_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with the embedded model, which says little."""
    presets = tmp_path_factory.mktemp("presets") / "presets.toml"
    presets.write_text(SHORT, encoding="utf-8")
    settings = Settings(voices_dir=(str(voices_dir),), model_repo="tiny", presets_file=presets)
    with serving(settings, load_engine) as served:
        served.wait_ready()
        yield served


def alive() -> dict[str, int]:
    counts = {kind.__name__: 0 for kind in KINDS}
    for thing in gc.get_objects():
        if type(thing) in KINDS:
            counts[type(thing).__name__] += 1
    return counts


def threads() -> int:
    """Threads of this process, those of codecs too; without those of pools, which grow when there is much to do."""
    task = Path("/proc/self/task")
    pooled = sum(thread.name.rpartition("_")[2].isdecimal() for thread in threading.enumerate())
    return (len(os.listdir(task)) if task.exists() else threading.active_count()) - pooled


def speak(server: Served, **fields: object) -> int:
    body = {"input": LINE, "voice": "anna", "response_format": "mp3", "speed": 1.5, **fields}
    return httpx.post(f"{server.url}/v1/audio/speech", json=body, timeout=PATIENCE_S).status_code


def whole(server: Served) -> None:
    assert speak(server, stream=False) == 200


def streamed(server: Served) -> None:
    assert speak(server, input=LINE * 2, response_format="aac") == 200


def events(server: Served) -> None:
    assert speak(server, stream_format="sse") == 200


def left(server: Served) -> None:
    """Hang up in the middle."""
    connection = server.send({"input": LINE * 300, "voice": "anna", "response_format": "opus", "speed": 0.5})
    wait_until(lambda: server.open_requests > 0)  # what has not begun yet cannot be left behind
    connection.close()


def read_a_little_and_left(server: Served) -> None:
    with server.send({"input": LINE * 300, "voice": "anna", "response_format": "pcm"}) as connection:
        assert connection.recv(2000)


def refused(server: Served) -> None:
    assert speak(server, voice="nobody") == 400
    assert speak(server, preset="nothing") == 400


def inworld(server: Served) -> None:
    body = {"text": LINE, "voiceId": "anna"}
    for route in ("voice", "voice:stream"):
        assert httpx.post(f"{server.url}/tts/v1/{route}", json=body, timeout=PATIENCE_S).status_code == 200


def on_a_socket(server: Served) -> None:
    with opened(
        f"{server.ws_url}/tts/v1/voice:streamBidirectional", open_timeout=PATIENCE_S, close_timeout=HANG_UP_S
    ) as socket:
        socket.send(json.dumps({"contextId": "a", "create": {"voiceId": "anna"}}))
        socket.send(json.dumps({"contextId": "a", "send_text": {"text": LINE, "flush_context": {}}}))
        while "flushCompleted" not in json.loads(socket.recv(PATIENCE_S))["result"]:
            pass


def cancelled_on_a_socket(server: Served) -> None:
    with opened(
        f"{server.ws_url}/tts/v1/voice:streamBidirectional", open_timeout=PATIENCE_S, close_timeout=HANG_UP_S
    ) as socket:
        socket.send(json.dumps({"contextId": "a", "create": {"voiceId": "anna"}}))
        socket.send(json.dumps({"contextId": "a", "send_text": {"text": LINE, "flush_context": {}}}))
        for speed in (1.1, 1.2):  # settings that wait for their turn
            change = {"audioConfig": {"speakingRate": speed}}
            socket.send(json.dumps({"contextId": "a", "update_config": change}))
            socket.send(json.dumps({"contextId": "a", "send_text": {"text": LINE}}))
        socket.send(json.dumps({"contextId": "a", "cancel_context": {}}))
        while "contextClosed" not in json.loads(socket.recv(PATIENCE_S))["result"]:
            pass


def xtts(server: Served) -> None:
    body = {"text": LINE, "speaker_wav": "anna"}
    for route in ("tts_to_audio", "tts_stream"):
        assert httpx.post(f"{server.url}/{route}", json=body, timeout=PATIENCE_S).status_code == 200


def captioned(server: Served) -> None:
    answer = httpx.post(f"{server.url}/dev/captioned_speech", json={"input": LINE, "voice": "anna"}, timeout=PATIENCE_S)
    assert "attention" in answer.text


def batch(server: Served) -> None:
    body = {"items": [{"input": LINE, "voice": voice} for voice in ("anna", "nobody", "bob")], "num_steps": 1}
    assert httpx.post(f"{server.url}/v1/audio/speech/batch", json=body, timeout=PATIENCE_S).json()["succeeded"] == 2


def on_the_omni_socket(server: Served) -> None:
    """Two utterances, a cancel, a wrong message, and a hang-up in the middle."""
    with opened(f"{server.ws_url}/v1/audio/speech/stream") as socket:

        def say(type: str, **fields: object) -> None:
            socket.send(json.dumps({"type": type, **fields}))

        def until(type: str) -> None:
            while type not in str(socket.recv(PATIENCE_S)):
                pass

        for stream in (True, False):
            say("session.config", voice="anna", response_format="pcm", stream_audio=stream, num_steps=1)
            say("input.text", text=LINE)
            say("input.done")
            until("session.done")
        say("input.text", text=LINE * 5)
        until("audio.start")
        say("input.cancel")
        until("session.done")
        say("nothing")
        say("input.text", text=LINE * 5)
        until("audio.start")


def on_deepgrams_socket(server: Served) -> None:
    """A turn, a turn that is cleared, and a hang-up in the middle of another."""
    with opened(f"{server.ws_url}/v1/speak?model=anna") as socket:
        for end in ("Flush", "Clear", ""):
            socket.send(json.dumps({"type": "Speak", "text": LINE}))
            if end:
                socket.send(json.dumps({"type": end}))
                while end[:5] not in str(socket.recv(PATIENCE_S)):
                    pass


def elevenlabs(server: Served) -> None:
    body = {"text": LINE, "voice_settings": {"speed": 1.1}, "num_steps": 1}
    for route in ("", "/stream/with-timestamps"):
        answer = httpx.post(f"{server.url}/v1/text-to-speech/anna{route}", json=body, timeout=PATIENCE_S)
        assert answer.status_code == 200


def elevenlabs_contexts(server: Served) -> None:
    """One that ends, one that is interrupted, one that fails, and one that the client leaves open."""
    with opened(
        f"{server.ws_url}/v1/text-to-speech/anna/multi-stream-input", open_timeout=PATIENCE_S, close_timeout=HANG_UP_S
    ) as socket:

        def finish(name: str) -> None:
            socket.send(json.dumps({"context_id": name, "close_context": True}))
            while not json.loads(socket.recv(PATIENCE_S)).get("isFinal"):
                pass

        socket.send(json.dumps({"text": LINE, "context_id": "a", "flush": True}))
        finish("a")
        socket.send(json.dumps({"text": LINE * 9, "context_id": "b", "try_trigger_generation": True}))
        finish("b")
        socket.send(json.dumps({"text": LINE, "context_id": "c", "voice_settings": {"speed": 99}}))
        assert json.loads(socket.recv(PATIENCE_S))["error"]
        socket.send(json.dumps({"text": LINE * 9, "context_id": "d", "flush": True}))
        assert json.loads(socket.recv(PATIENCE_S))["audio"]


def elevenlabs_stream(server: Served) -> None:
    with opened(
        f"{server.ws_url}/v1/text-to-speech/anna/stream-input", open_timeout=PATIENCE_S, close_timeout=HANG_UP_S
    ) as socket:
        for text in (LINE, ""):
            socket.send(json.dumps({"text": text}))
        assert any(json.loads(message).get("isFinal") for message in socket)


def elevenlabs_refused(server: Served) -> None:
    """A turn that fails, on each socket."""
    for path in ("multi-stream-input", "stream-input"):
        address = f"{server.ws_url}/v1/text-to-speech/anna/{path}?inactivity_timeout=0.05"
        with (
            connect(address) as socket,
            contextlib.suppress(ConnectionClosed),
        ):
            socket.send(json.dumps({"text": "Half a sen", "context_id": "a"}))
            assert "error" in json.loads(socket.recv(PATIENCE_S))
            while True:
                socket.recv(PATIENCE_S)


def chatterbox(server: Served) -> None:
    body = {"text": LINE, "voice_id": "anna", "preset": "realtime"}
    assert httpx.post(f"{server.url}/synthesize", json=body, timeout=PATIENCE_S).status_code == 200
    with opened(f"{server.ws_url}/ws/synthesize") as socket:
        socket.send(json.dumps(body))
        while not json.loads(socket.recv(PATIENCE_S))["is_final"]:
            pass


def chatterbox_turns(server: Served) -> None:
    """A whole turn, one that is cancelled, and one that is hung up on."""
    with opened(f"{server.ws_url}/ws/synthesize-stream") as socket:
        for last, answer in (("end", "complete"), ("cancel", "cancelled"), ("text", "audio")):
            for message in ({"type": "init", "voice_id": "anna"}, {"content": LINE * 2}, {"type": last}):
                socket.send(json.dumps(message))
            while json.loads(socket.recv(PATIENCE_S))["type"] != answer:
                pass


def twilio(server: Served) -> None:
    """A call with a turn that is heard, one that is interrupted, and one that is hung up on."""
    calls = f"{server.url}/calls/MZ1"
    with opened(f"{server.ws_url}/ws/twilio") as socket:
        parameters = {"voice_id": "anna", "text": LINE}
        socket.send(json.dumps({"event": "start", "start": {"streamSid": "MZ1", "customParameters": parameters}}))
        for event in ("mark", "clear", "media"):
            while json.loads(socket.recv(PATIENCE_S))["event"] != event:
                pass
            assert httpx.post(f"{calls}/say", json={"text": LINE}, timeout=PATIENCE_S).status_code == 200
            if event == "mark":
                assert httpx.post(f"{calls}/clear", timeout=PATIENCE_S).status_code == 200


ENDINGS = [
    whole,
    streamed,
    events,
    left,
    read_a_little_and_left,
    refused,
    inworld,
    on_a_socket,
    cancelled_on_a_socket,
    xtts,
    twilio,
]
ENDINGS += [elevenlabs, elevenlabs_contexts, elevenlabs_stream, elevenlabs_refused]
ENDINGS += [captioned, batch, on_the_omni_socket, on_deepgrams_socket]
ENDINGS += [chatterbox, chatterbox_turns]


def settled(server: Served) -> dict[str, int]:
    """Wait until nothing is in work, and return what is alive then (a script keeps what it has been given)."""
    server.wait_idle()

    def idle() -> bool:
        gc.collect()
        counts = alive()
        return not any(counts[kind.__name__] for kind in (SpeechStream, FrameStream, BlockJob, Output))

    wait_until(idle)
    return alive()


def assert_nothing_is_left(server: Served, before: dict[str, int]) -> None:
    """Wait until nothing is left, and nothing comes: a worker may still prepare what nobody wants any more."""
    server.wait_idle()
    nothing = 0

    def stays_away() -> bool:
        nonlocal nothing
        nothing = 0 if left_of(before) else nothing + 1
        time.sleep(0.02)
        return nothing == 5

    with contextlib.suppress(AssertionError):
        wait_until(stays_away)
    assert nothing == 5, left_of(before)


def left_of(before: dict[str, int]) -> dict[str, int]:
    """What more is alive than there was; something of the request before may have gone meanwhile."""
    return {name: more for name, count in alive().items() if (more := count - before[name]) > 0}


@pytest.mark.parametrize("end", ENDINGS)
def test_nothing_of_a_request_outlives_it(tiny: Served, no_collector: None, end: Callable[[Served], None]) -> None:
    end(tiny)  # what is made once, is made now
    before, running = settled(tiny), threads()
    for _ in range(ROUNDS):
        end(tiny)
    assert_nothing_is_left(tiny, before)
    wait_until(lambda: threads() < running + ROUNDS)  # those of codecs and of clients are gone


@pytest.mark.parametrize("script", [FakeScript(fail_before=True), FakeScript(fail_after_blocks=1, audio_s_per_char=1)])
@pytest.mark.parametrize("stream", [True, False])
def test_nothing_of_a_request_that_failed_outlives_it(
    server: Served, no_collector: None, script: FakeScript, stream: bool
) -> None:
    def fail() -> None:
        server.engine.script = FakeScript(
            fail_before=script.fail_before,
            fail_after_blocks=script.fail_after_blocks,
            audio_s_per_char=script.audio_s_per_char,
        )
        try:
            assert speak(server, stream=stream) in (200, 500)
        except httpx.RemoteProtocolError:
            assert stream

    fail()
    server.engine.script = FakeScript()  # it keeps what it was given
    before = settled(server)
    for _ in range(ROUNDS):
        fail()
    server.engine.script = FakeScript()
    assert_nothing_is_left(server, before)
