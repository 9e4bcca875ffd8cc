"""Bodies that are too large, too many, unfinished, or framed wrongly; heads that are no heads."""

from __future__ import annotations

import random
import time
from contextlib import ExitStack

from tests.attack.conftest import SECONDS, State, Target
from tests.attack.raw import Raw, ask, request, speech
from tests.processes import eventually

SPEECH = "/v1/audio/speech"
MEGABYTE = b"a" * 2**20


def test_unfinished_bodies(target: Target) -> None:
    with ExitStack() as stack:
        for number in range(12):
            sender = stack.enter_context(Raw(target.port, source=f"127.0.0.{1 + number % 4}"))
            sender.send(request("POST", SPEECH, None, f"Content-Length: {39 * 2**20}") + b'{"input":"')
            sender.pour(MEGABYTE, 20, 10)
        assert ask(target.port, request()).status == 200
        eventually(lambda: State.of(target.process)["echo_incoming_bytes"] == 0, "unfinished bodies are given up")


def test_bodies_beyond_the_limit(target: Target) -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        with Raw(target.port) as connection:
            connection.send(request("POST", SPEECH, None, "Content-Length: 47185920"))
            connection.pour(MEGABYTE, 45)
            assert connection.answer().status == 413


def changed(data: bytes, dice: random.Random) -> bytes:
    """Change, remove, insert or repeat some bytes."""
    place = dice.randrange(len(data))
    before, after = data[:place], data[place:]
    byte = bytes([dice.choice([*b"\r\n\0 :;,0f\xff", dice.randrange(256)])])
    return dice.choice(
        [before + byte + after[1:], before + after[1:], before + byte + after, before + after[:20] * 30 + after]
    )


def test_heads_and_frames_of_any_bytes(target: Target, dice: random.Random) -> None:
    chunked = request("POST", SPEECH, None, "Transfer-Encoding: chunked")
    models = [request(), speech(), chunked + b"5\r\n{}   \r\n0\r\n\r\n", chunked + b"0\r\nX: y\r\n\r\n"]
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        data = dice.choice(models)
        for _ in range(dice.randint(1, 6)):
            data = changed(data, dice)
        with Raw(target.port) as connection:
            connection.send(data)
            connection.socket.settimeout(0.05)
            try:
                answer = connection.socket.recv(15)
            except OSError:
                continue
            assert not answer or answer[9:10] in b"124", data


def test_endless_heads(target: Target) -> None:
    beginnings = [b"GET /", b"GET / HTTP/1.1\r\nX: ", b"GET / HTTP/1.1\r\n"]
    pieces = [b"a" * 2**16, b"a: b\r\n" * 10_000]
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        for beginning in beginnings:
            for piece in pieces:
                with Raw(target.port) as connection:
                    connection.send(beginning)
                    connection.pour(piece, 100, 2)
        assert target.alive
