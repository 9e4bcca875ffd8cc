"""Clients that do not read, do not send, or do either one byte at a time."""

from __future__ import annotations

import random
import time
from contextlib import ExitStack

import pytest

from tests.attack.conftest import LONG, SECONDS, Target
from tests.attack.raw import Raw, ask, request, speech
from tests.processes import eventually


def test_readers_that_read_nothing_leave_room_for_others(target: Target) -> None:
    with ExitStack() as stack:
        readers = [stack.enter_context(Raw(target.port, receive_buffer=2**14)) for _ in range(50)]
        for reader in readers:
            reader.send(LONG)
        # Another address is served while they stall.
        assert ask(target.port, speech(response_format="pcm"), source="127.0.0.2").status == 200
        assert target.alive
        eventually(lambda: target.process.open_streams == 0, "stalled readers are cut off")


@pytest.mark.parametrize(
    "beginning",
    [
        b"",
        b"GET /health HTTP/1.1\r\nX-Slow: ",
        b"POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n",
        b"POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n",
    ],
    ids=["silence", "head", "body", "chunk"],
)
def test_senders_that_hardly_send(target: Target, beginning: bytes, dice: random.Random) -> None:
    deadline = time.monotonic() + SECONDS
    with ExitStack() as stack:
        senders = [stack.enter_context(Raw(target.port)) for _ in range(100)]
        for sender in senders:
            sender.send(beginning)
        while time.monotonic() < deadline:
            for sender in senders:
                sender.send(b"a")
            assert ask(target.port, request()).status == 200
            time.sleep(dice.random() * 0.5)
        assert all(sender.closed() for sender in senders)
