"""The WebSocket: frames of any kind, messages without an end, contexts without a reader."""

from __future__ import annotations

import base64
import json
import os
import random
import time
from contextlib import ExitStack

from tests.attack.conftest import SECONDS, Target
from tests.attack.raw import Raw, request

PATH = "/tts/v1/voice:streamBidirectional"
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def opened(target: Target, **options: object) -> Raw:
    key = base64.b64encode(os.urandom(16)).decode()
    upgrade = ("Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13")
    connection = Raw(target.port, **options)  # type: ignore[arg-type]
    connection.send(request("GET", PATH, None, *upgrade))
    assert connection.socket.recv(12) == b"HTTP/1.1 101"
    return connection


def frame(opcode: int, data: bytes, *, last: bool = True, masked: bool = True) -> bytes:
    size = len(data)
    length = bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2, "big")
    if size >= 2**16:
        length = b"\x7f" + size.to_bytes(8, "big")
    head = bytes([(0x80 if last else 0) | opcode, length[0] | (0x80 if masked else 0)]) + length[1:]
    return head + (b"\0\0\0\0" if masked else b"") + data  # a mask of zeros changes nothing


def test_messages_without_an_end(target: Target) -> None:
    floods = [
        frame(TEXT, b"a" * 1000, last=False),
        frame(0, b"", last=False) * 1000,
        frame(0, b"a" * 60_000, last=False),
        frame(PING, b"a" * 100) * 100,
        frame(PONG, b"") * 1000,
    ]
    for flood in floods:
        with opened(target) as connection:
            connection.send(frame(TEXT, b"{", last=False))
            connection.pour(flood, 20_000, SECONDS)
            assert target.alive


def test_frames_of_any_kind(target: Target, dice: random.Random) -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        with opened(target) as connection:
            for _ in range(dice.randint(1, 10)):
                data = dice.randbytes(dice.choice([0, 1, 100, 200]))
                whole, masked = dice.random() < 0.8, dice.random() < 0.8
                connection.send(frame(dice.randrange(16), data, last=whole, masked=masked))
            dice.choice([connection.close, connection.reset])()


def test_contexts_without_a_reader(target: Target) -> None:
    with ExitStack() as stack:
        for _ in range(4):
            connection = stack.enter_context(opened(target, receive_buffer=2**14))
            for name in "abcde":
                config = {"voiceId": "tiny_anna", "audioConfig": {"audioEncoding": "LINEAR16"}}
                messages = [{"create": config}, {"send_text": {"text": "Nobody listens to this. " * 40}}]
                messages += [{"flush_context": {}}, {"close_context": {}}]
                for message in messages:
                    connection.send(frame(TEXT, json.dumps({**message, "contextId": name}).encode()))
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            assert target.alive
            time.sleep(0.2)
