"""Talking to the server as clients of the Chatterbox streaming server do."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

from tests.contract.serving import HANG_UP_S, PATIENCE_S, Served

REQUESTS, TURNS = "/ws/synthesize", "/ws/synthesize-stream"
SENTENCE = "This is a sentence that is spoken."

Json = dict[str, Any]


def post(server: Served, path: str, body: object = None, **options: Any) -> httpx.Response:
    return httpx.post(server.url + path, json=body, timeout=PATIENCE_S, verify=False, **options)


class Socket:
    """A connection to one of the two sockets."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    def send(self, message: object) -> None:
        self.connection.send(message if isinstance(message, str | bytes) else json.dumps(message))

    def receive(self) -> Json:
        message: Json = json.loads(self.connection.recv(timeout=PATIENCE_S))
        return message

    def answer(self) -> list[Json]:
        """Return the messages of one answer: up to the final one, or an error."""
        messages = [self.receive()]
        while not messages[-1].get("is_final") and "error" not in messages[-1]:
            messages.append(self.receive())
        return messages

    def until(self, kind: str) -> list[Json]:
        """Return the messages up to one of that type."""
        messages = [self.receive()]
        while messages[-1].get("type") != kind:
            messages.append(self.receive())
        return messages

    def begin(self, voice_id: str = "anna", **fields: Any) -> Json:
        self.send({"type": "init", "voice_id": voice_id, **fields})
        return self.receive()


@contextmanager
def open_socket(server: Served, path: str, **options: Any) -> Iterator[Socket]:
    with connect(
        server.ws_url + path, open_timeout=PATIENCE_S, close_timeout=HANG_UP_S, proxy=None, **options
    ) as connection:
        yield Socket(connection)


def kinds(messages: Sequence[Json]) -> list[str]:
    """Types of the messages; consecutive audio counts once."""
    names = [str(message.get("type", "error")) for message in messages]
    return [name for at, name in enumerate(names) if at == 0 or name != "audio" or names[at - 1] != "audio"]


def pieces(messages: Sequence[Json]) -> list[bytes]:
    """The pieces of audio of an answer, each base64 of its own."""
    return [base64.b64decode(m["audio"], validate=True) for m in messages if m.get("audio") is not None]


def whole(server: Served, text: str, seed: int) -> bytes:
    """Return the whole of a text in mu-law at 8 kHz, as another wire format gives it."""
    body = {"text": text, "voiceId": "anna", "seed": seed, "audioConfig": {"audioEncoding": "MULAW"}}
    answer = post(server, "/tts/v1/voice:stream", body)
    results = [json.loads(line)["result"] for line in answer.text.splitlines()]
    return b"".join(base64.b64decode(result["audioContent"]) for result in results)
