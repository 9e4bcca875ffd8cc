"""Talking to the server as ElevenLabs' clients do."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import httpx
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.contract.serving import PATIENCE_S, Served

Json = dict[str, Any]


def path(rest: str, voice: str = "anna", **query: object) -> str:
    """The path of a route of text-to-speech."""
    return f"/v1/text-to-speech/{voice}{rest}" + (f"?{urlencode(query)}" if query else "")


def post(server: Served, path: str, body: object, **options: Any) -> httpx.Response:
    return httpx.post(server.url + path, json=body, timeout=PATIENCE_S, verify=False, **options)


class Socket:
    """A connection to one of the sockets."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    def send(self, message: object = None, **fields: object) -> None:
        """Send a message: text or bytes as they are, anything else as JSON."""
        message = fields if message is None else message
        self.connection.send(message if isinstance(message, str | bytes) else json.dumps(message))

    def receive(self) -> Json:
        message: Json = json.loads(self.connection.recv(timeout=PATIENCE_S))
        return message

    def until_final(self, context: str | None = None) -> list[Json]:
        """Return the messages up to the final one (of a context, if given)."""
        messages: list[Json] = []
        while True:
            messages.append(self.receive())
            if messages[-1].get("isFinal") and context in (None, messages[-1].get("contextId")):
                return messages

    def rest(self) -> tuple[list[Json], int]:
        """Return all messages until the server closes, and the code of the close."""
        messages: list[Json] = []
        with contextlib.suppress(ConnectionClosed):
            while True:
                messages.append(self.receive())
        code = self.connection.close_code
        assert code is not None
        return messages, code

    def is_alive(self) -> bool:
        """Tell whether a multi-context socket still serves: it opens and closes a context."""
        self.send(text=" ", context_id="probe")
        self.send(context_id="probe", close_context=True)
        return bool(self.until_final("probe"))


@contextmanager
def open_socket(server: Served, rest: str, voice: str = "anna", **query: object) -> Iterator[Socket]:
    url = server.ws_url + path(rest, voice, **query)
    with connect(url, open_timeout=PATIENCE_S, max_size=None) as connection:
        yield Socket(connection)


@contextmanager
def multi(server: Served, voice: str = "anna", **query: object) -> Iterator[Socket]:
    with open_socket(server, "/multi-stream-input", voice, **{"output_format": "pcm_24000", **query}) as socket:
        yield socket


@contextmanager
def single(server: Served, voice: str = "anna", **query: object) -> Iterator[Socket]:
    with open_socket(server, "/stream-input", voice, **{"output_format": "pcm_24000", **query}) as socket:
        yield socket


def audio_of(messages: Iterable[Json]) -> bytes:
    """Join the audio of some messages; every piece is base64 of its own."""
    return b"".join(base64.b64decode(message["audio"], validate=True) for message in messages if message.get("audio"))


@dataclass(slots=True)
class Alignment:
    """The alignments of a turn, put together as pipecat does (``restart``) or as livekit does."""

    text: str = ""
    starts_ms: list[int] = field(default_factory=list)
    end_ms: int = 0


def aligned(messages: Iterable[Json], *, restart: bool = True) -> Alignment:
    """Check every alignment, and put them together; their spans have no gap and do not overlap."""
    found = Alignment()
    for message in messages:
        alignment = message.get("alignment")
        if alignment is None:
            continue
        assert message["normalizedAlignment"] == alignment
        chars, starts, durations = (alignment[key] for key in ("chars", "charStartTimesMs", "charDurationsMs"))
        assert len(chars) == len(starts) == len(durations) > 0
        assert all(type(value) is int and value >= 0 for value in [*starts, *durations])
        assert all(len(char) == 1 for char in chars)
        offset = found.end_ms if restart else 0
        assert starts[0] + offset == found.end_ms
        assert [start + duration for start, duration in zip(starts, durations, strict=True)][:-1] == starts[1:]
        assert chars[-1] == " "
        found.text += "".join(chars)
        found.starts_ms += [offset + start for start in starts]
        found.end_ms = offset + starts[-1] + durations[-1]
    return found
