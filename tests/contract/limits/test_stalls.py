"""Clients that do not read what they asked for lose their connection; those that read slowly do not."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from websockets.sync.client import connect

from tests.attack.raw import Raw, ask, request, speech
from tests.contract.clock import Clock
from tests.contract.inworld.calls import SOCKET_PATH, Socket
from tests.contract.serving import Serve, Served, wait_until

#: More audio than the system's buffers of a connection hold, whatever their size: half an hour.
LONG = "This is a sentence that takes a while to be spoken. " * 70
SMALL = 2**14


@pytest.fixture
def impatient(serve: Serve, clock: Clock) -> Served:
    """A server that waits a second for a reader, by a clock that stands."""
    served = serve(send_timeout_s=1)
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, 2**21).astype(np.float32)  # nothing that an encoder makes small
    served.script.render = lambda utterance, block, count: noise[:count]
    return served


def ended(served: Served) -> float:
    value = served.runtime.metrics.registry.get_sample_value(
        "echo_ended_connections_total", {"reason": "stalled_reader"}
    )
    return value or 0.0


def unsent(served: Served) -> float:
    return served.runtime.metrics.registry.get_sample_value("echo_unsent_bytes") or 0.0


@pytest.mark.parametrize(
    "data",
    [
        speech(input=LONG, response_format="pcm"),
        speech(input=LONG, response_format="pcm", stream_format="sse"),
        speech(input=LONG, response_format="wav", wav_streaming=True),
        speech(input=LONG, response_format="flac"),
        speech(input=LONG, response_format="wav"),
        request("POST", "/tts/v1/voice:stream", json.dumps({"text": LONG[:1900], "voiceId": "anna",
                "audioConfig": {"audioEncoding": "LINEAR16", "sampleRateHertz": 48000}}).encode()),
    ],
    ids=["pcm", "sse", "wav", "flac", "whole", "inworld"],
)  # fmt: skip
def test_a_reader_that_takes_nothing_is_cut_off(impatient: Served, clock: Clock, data: bytes) -> None:
    with Raw(impatient.port, receive_buffer=SMALL) as connection:
        connection.send(data)
        wait_until(lambda: unsent(impatient) > 0)
        clock.run()
        wait_until(lambda: ended(impatient) == 1)
        impatient.wait_idle()
        wait_until(lambda: unsent(impatient) == 0)
        assert connection.closed()
    assert ask(impatient.port, speech(response_format="pcm")).status == 200


def test_a_socket_that_takes_nothing_is_cut_off(impatient: Served, clock: Clock) -> None:
    with connect(impatient.ws_url + SOCKET_PATH, max_queue=1, close_timeout=0) as connection:
        socket = Socket(connection)
        for name in "abcd":
            socket.send({"create": {"voiceId": "anna", "audioConfig": {"audioEncoding": "LINEAR16"}}}, name)
            for _ in range(30):
                socket.send({"send_text": {"text": LONG[:990]}}, name)
            socket.send({"flush_context": {}}, name)
        wait_until(lambda: impatient.open_requests > 0)
        clock.run()
        wait_until(lambda: ended(impatient) == 1)
        impatient.wait_idle()
    assert ask(impatient.port, speech(response_format="pcm")).status == 200


def test_a_reader_that_keeps_pace_hears_everything(
    impatient: Served, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.connections._CHECK_S", 0.01)
    whole = ask(impatient.port, speech(input=LONG, response_format="pcm", seed=1)).body
    with Raw(impatient.port, receive_buffer=SMALL) as connection:
        connection.send(speech(input=LONG, response_format="pcm", seed=1))
        got = 0
        for _ in range(10):
            clock.jump(0.8)  # in the end eight times what a reader may take nothing for
            enough = got + 2**17  # far more than its own buffer holds: most of it comes now
            while got < enough:
                got += len(connection.socket.recv(2**12))
            time.sleep(0.05)
        while got < len(whole):
            piece = connection.socket.recv(2**20)
            assert piece
            got += len(piece)
    assert ended(impatient) == 0


@contextmanager
def listening(served: Served, data: bytes) -> Iterator[Raw]:
    with Raw(served.port, receive_buffer=SMALL) as connection:
        connection.send(data)
        yield connection


def test_what_is_not_read_counts_and_further_speech_is_refused(serve: Serve) -> None:
    served = serve(send_timeout_s=3600, max_unsent_bytes=2**20)
    with listening(served, speech(input=LONG, response_format="wav")):
        wait_until(lambda: unsent(served) > 2**20)
        refused = ask(served.port, speech(response_format="pcm"))
        assert refused.status == 429
        assert int(refused.headers["retry-after"]) > 0
        assert ask(served.port, request()).status == 200
    wait_until(lambda: unsent(served) == 0)
    assert ask(served.port, speech(response_format="pcm")).status == 200
