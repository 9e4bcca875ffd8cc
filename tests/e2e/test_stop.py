"""SIGTERM and Ctrl-C end the server cleanly: open streams get their grace, nothing new comes in, nothing is lost.

That they end an idle server is checked where one is there anyway: the fixtures ``running`` (SIGTERM, after everything
that the tests did to it) and ``lock_step`` (Ctrl-C, which does not wait for its window of an hour) end theirs so.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import ClientConnection, connect

from tests.e2e.conftest import Held, Start
from tests.e2e.server_process import ENDLESS, ROOT, ServerProcess
from tests.processes import PATIENCE_S, eventually

#: A few seconds of work after a first block that is cheap.
LONG = {
    "input": "A listener who is being served hears this sentence to its very end, and not less.",
    "response_format": "pcm",
    "block_sizes": [16, 48, 64],
    "num_steps": [2, 30, 30],
    "seed": 7,
}


@contextmanager
def open_turn(server: ServerProcess) -> Iterator[ClientConnection]:
    """Open a socket on which a turn is being written."""
    url = f"{server.url.replace('http', 'ws')}/v1/audio/speech/stream"
    with connect(url, open_timeout=PATIENCE_S) as socket:
        for message in (
            {"type": "session.config", "response_format": "pcm", "split_granularity": "sentence"},
            {"type": "input.text", "text": "This sentence has been spoken before the rest is written. And"},
        ):
            socket.send(json.dumps(message))
        next_of(socket, "audio.done")
        yield socket


def next_of(socket: ClientConnection, kind: str) -> dict[str, object]:
    """Return the next message of a type; those before it are dropped."""
    while True:
        frame = socket.recv(PATIENCE_S)
        if isinstance(frame, str):
            message: dict[str, object] = json.loads(frame)
            if message["type"] == kind:
                return message


def test_after_sigterm_the_server_is_not_ready_but_serves_and_a_second_one_ends_it_at_once(start: Start) -> None:
    server = start(ECHO_DRAIN_S=3600, ECHO_SHUTDOWN_GRACE_S=3600).wait_ready()
    with server.listen(ENDLESS) as listener:
        listener.some()
        server.send_signal(signal.SIGTERM)
        eventually(lambda: server.get("/ready").status_code == 503, "not ready")
        assert server.get("/ready").json() == {"status": "draining"}
        assert server.get("/health").status_code == 200
        served = server.speak("A balancer that does not know yet.")
        assert (served.status_code, served.headers["connection"]) == (200, "close")
        listener.some()
        server.send_signal(signal.SIGTERM)
        assert server.wait() == -signal.SIGTERM
    assert "Traceback" not in server.log


def test_open_streams_are_spoken_to_their_end_and_nothing_new_is_taken(start: Start, server: ServerProcess) -> None:
    with server.listen(LONG) as listener:
        undisturbed = listener.rest()
    ending = start(ECHO_SHUTDOWN_GRACE_S=60, ECHO_PRESETS_FILE=ROOT / "presets.toml").wait_ready()
    url = ending.url
    with open_turn(ending) as socket, ending.listen(LONG) as listener:
        heard = listener.some()
        ending.send_signal(signal.SIGTERM)
        ending.wait_for_log("no new connections")
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/health")
        socket.send(json.dumps({"type": "input.text", "text": " this one while the server ends."}))
        socket.send(json.dumps({"type": "input.done"}))
        heard += listener.rest()
        assert next_of(socket, "session.done")["total_sentences"] == 2
        with pytest.raises(ConnectionClosedError) as closed:  # and not before
            socket.recv(PATIENCE_S)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
    assert heard == undisturbed
    ending.assert_ends_cleanly(signal.SIGTERM)


def test_a_stream_that_outlasts_the_grace_is_broken_off(start: Start) -> None:
    server = start(ECHO_SHUTDOWN_GRACE_S=1).wait_ready()
    with server.listen(ENDLESS) as listener:
        listener.some()
        asked = httpx.post(f"{server.url}/admin/drain", params={"wait": False}, timeout=PATIENCE_S)
        assert (asked.status_code, asked.json()) == (202, {"status": "draining", "open_streams": 1})
        refused = server.speak("Too late.")  # and not: cannot connect
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        server.send_signal(signal.SIGTERM)
        with pytest.raises(httpx.RemoteProtocolError):
            listener.rest()
    server.assert_ends_cleanly(signal.SIGTERM)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_is_still_loading_ends_without_loading_on(held: Held, number: signal.Signals) -> None:
    assert held.server.get("/health").json()["status"] == "loading"
    held.server.send_signal(number)
    held.server.assert_ends_cleanly(number)
