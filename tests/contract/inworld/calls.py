"""Talking to the server as Inworld's clients do."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

from tests.contract.serving import PATIENCE_S, Served

SOCKET_PATH = "/tts/v1/voice:streamBidirectional"

Json = dict[str, Any]


def post(server: Served, path: str, body: object, **options: Any) -> httpx.Response:
    # Loading certificates, which plain HTTP has no use for, takes longer than most of these calls.
    return httpx.post(server.url + path, json=body, timeout=PATIENCE_S, verify=False, **options)


def speak(server: Served, **body: object) -> Json:
    """Call the non-stream route; it must succeed."""
    answer = post(server, "/tts/v1/voice", {"text": "Hello, world.", "voiceId": "anna", **body})
    assert answer.status_code == 200, answer.text
    result: Json = answer.json()
    return result


def stream(server: Served, **body: object) -> list[Json]:
    """Call the streaming route; it must succeed. Returns the ``result`` of every line."""
    answer = post(server, "/tts/v1/voice:stream", {"text": "Hello, world.", "voiceId": "anna", **body})
    assert answer.status_code == 200, answer.text
    assert answer.text.endswith("\n")
    return [json.loads(line)["result"] for line in answer.text.splitlines()]


def audio_of(results: list[Json]) -> bytes:
    """Join the audio of some lines; every piece is base64 of its own."""
    return b"".join(base64.b64decode(part["audioContent"], validate=True) for part in results if "audioContent" in part)


def check_alignment(info: Json, duration_s: float) -> list[str]:
    """Check what clients rely on in ``timestampInfo``; returns the words or characters."""
    method, (arrays,) = info.pop("timestamps_method"), info.values()
    assert method in ("attention", "estimate")
    items, starts, ends = arrays.values()
    assert len(items) == len(starts) == len(ends) > 0
    merged = list(itertools.chain.from_iterable(zip(starts, ends, strict=True)))
    assert merged == sorted(merged)
    assert merged[0] >= 0
    assert merged[-1] <= duration_s
    return list(items)


class Socket:
    """A connection to the bidirectional socket."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    def send(self, message: object, context: str | None = None) -> None:
        if context is not None:
            assert isinstance(message, dict)
            message = {**message, "contextId": context}
        self.connection.send(message if isinstance(message, str | bytes) else json.dumps(message))

    def receive(self) -> Json:
        message: Json = json.loads(self.connection.recv(timeout=PATIENCE_S))
        return message

    def until(self, key: str, context: str | None = None) -> list[Json]:
        """Return the results up to the one that holds ``key`` (of ``context``, if given)."""
        results: list[Json] = []
        while True:
            message = self.receive()
            assert "error" not in message, message
            results.append(message["result"])
            if key in results[-1] and context in (None, results[-1]["contextId"]):
                return results

    def create(self, context: str = "c", **config: object) -> Json:
        settings = {"voiceId": "anna", "audioConfig": {"audioEncoding": "PCM", "sampleRateHertz": 24000}, **config}
        self.send({"create": settings}, context)
        (created,) = self.until("contextCreated")
        assert created["contextId"] == context
        result: Json = created["contextCreated"]
        return result

    def status(self) -> Json:
        """Return the status of the next message, which must be a failure within a context."""
        result = self.receive()["result"]
        assert sorted(result) == ["contextId", "status"]
        status: Json = result["status"]
        return status

    def is_alive(self) -> bool:
        """Tell whether the socket still serves: it opens and closes a context."""
        self.send({"create": {"voiceId": "anna"}}, "probe")
        self.until("contextCreated", "probe")
        self.send({"close_context": {}}, "probe")
        return bool(self.until("contextClosed", "probe"))


@contextmanager
def open_socket(server: Served, **options: Any) -> Iterator[Socket]:
    with connect(server.ws_url + SOCKET_PATH, **options) as connection:
        yield Socket(connection)


def chunks(results: list[Json]) -> list[Json]:
    """Return the audio chunks among the results of a socket."""
    return [result["audioChunk"] for result in results if "audioChunk" in result]
