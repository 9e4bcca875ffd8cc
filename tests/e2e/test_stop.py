"""SIGTERM and Ctrl-C end the server cleanly: open streams get their grace, nothing new comes in, nothing is lost.

That they end an idle server is checked where one is there anyway: the fixtures ``running`` (SIGTERM, after everything
that the tests did to it) and ``lock_step`` (Ctrl-C) end theirs so.
"""

from __future__ import annotations

import signal

import httpx
import pytest

from tests.e2e.conftest import Held, Start
from tests.e2e.server_process import ENDLESS, ROOT, ServerProcess

#: A few seconds of work after a first block that is cheap.
LONG = {
    "input": "A listener who is being served hears this sentence to its very end, and not less.",
    "response_format": "pcm",
    "block_sizes": [16, 48, 64],
    "num_steps": [2, 30, 30],
    "seed": 7,
}


def test_an_open_stream_is_spoken_to_its_end_and_nothing_new_is_taken(start: Start, server: ServerProcess) -> None:
    with server.listen(LONG) as listener:
        undisturbed = listener.rest()
    ending = start(ECHO_SHUTDOWN_GRACE_S=60, ECHO_PRESETS_FILE=ROOT / "presets.toml").wait_ready()
    url = ending.url
    with ending.listen(LONG) as listener:
        heard = listener.some()
        ending.send_signal(signal.SIGTERM)
        ending.wait_for_log("Shutting down")
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/health")
        heard += listener.rest()
    assert heard == undisturbed
    ending.assert_ends_cleanly(signal.SIGTERM)


def test_a_stream_that_outlasts_the_grace_is_broken_off(start: Start) -> None:
    server = start(ECHO_SHUTDOWN_GRACE_S=1).wait_ready()
    with server.listen(ENDLESS) as listener:
        listener.some()
        server.send_signal(signal.SIGTERM)
        with pytest.raises(httpx.RemoteProtocolError):
            listener.rest()
    server.assert_ends_cleanly(signal.SIGTERM)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_is_still_loading_ends_without_loading_on(held: Held, number: signal.Signals) -> None:
    assert held.server.get("/health").json()["status"] == "loading"
    held.server.send_signal(number)
    held.server.assert_ends_cleanly(number)
