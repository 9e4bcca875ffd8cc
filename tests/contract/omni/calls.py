"""Talking to the server as clients of vLLM-Omni and SGLang-Omni do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from websockets.sync.client import ClientConnection, connect

from tests.contract.serving import PATIENCE_S, Served

PATH = "/v1/audio/speech/stream"

Json = dict[str, Any]


@dataclass(slots=True)
class Sentence:
    """What came between an ``audio.start`` and its ``audio.done``."""

    start: Json
    frames: list[bytes] = field(default_factory=list)
    chunks: list[Json] = field(default_factory=list)
    errors: list[Json] = field(default_factory=list)
    done: Json = field(default_factory=dict)

    @property
    def audio(self) -> bytes:
        return b"".join(self.frames)

    @property
    def text(self) -> str:
        return str(self.start["sentence_text"])


@dataclass(slots=True)
class Heard:
    """One utterance as a client reads it; ``other`` are messages outside of sentences."""

    sentences: list[Sentence] = field(default_factory=list)
    other: list[Json] = field(default_factory=list)
    done: Json = field(default_factory=dict)

    @property
    def texts(self) -> list[str]:
        return [sentence.text for sentence in self.sentences]

    @property
    def audio(self) -> bytes:
        return b"".join(sentence.audio for sentence in self.sentences)


class Reader:
    """Puts messages together to utterances, and checks that sentences come in pairs of start and done."""

    def __init__(self) -> None:
        self.heard = Heard()
        self._open: Sentence | None = None

    def add(self, message: str | bytes) -> Heard | None:
        """Take a message; returns the utterance when it is done."""
        if isinstance(message, bytes):
            assert self._open is not None, "audio outside of a sentence"
            self._open.frames.append(message)
            return None
        value: Json = json.loads(message)
        match value["type"]:
            case "audio.start":
                assert self._open is None, "a sentence within a sentence"
                self._open = Sentence(value)
            case "audio.chunk":
                assert self._open is not None
                self._open.chunks.append(value)
            case "audio.done":
                assert self._open is not None
                self._open.done = value
                assert names(self._open.start) == names(value)
                self.heard.sentences.append(self._open)
                self._open = None
            case "session.done":
                assert self._open is None
                self.heard.done = value
                assert value["total_sentences"] == len(self.heard.sentences)
                done, self.heard = self.heard, Heard()
                return done
            case "error" if self._open is not None and "sentence_index" in value:
                self._open.errors.append(value)
            case _:
                self.heard.other.append(value)
        return None


def names(message: Json) -> tuple[Any, ...]:
    return message["id"], message["utterance_index"], message["sentence_index"]


class Socket:
    """A connection to the socket."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self._reader = Reader()

    def send(self, type: str, **fields: object) -> None:
        self.connection.send(json.dumps({"type": type, **fields}))

    def config(self, **fields: object) -> Json:
        """Configure the session as vLLM-Omni's clients do, streaming, and return the answer."""
        self.send("session.config", **{"voice": "anna", "response_format": "pcm", "stream_audio": True, **fields})
        answer = self.receive()
        assert answer["type"] == "session.configured", answer
        return answer

    def text(self, *pieces: str) -> None:
        for piece in pieces:
            self.send("input.text", text=piece)

    def say(self, *pieces: str) -> Heard:
        """Speak a text and return what came back, up to the end of the utterance."""
        self.text(*pieces)
        self.send("input.done")
        return self.utterance()

    def receive(self) -> Json:
        """Return the next message, which must be JSON."""
        message = self.connection.recv(timeout=PATIENCE_S)
        assert isinstance(message, str)
        value: Json = json.loads(message)
        return value

    @property
    def heard(self) -> Heard:
        """What has been read of the utterance so far."""
        return self._reader.heard

    def read(self) -> Heard | None:
        """Read one message."""
        return self._reader.add(self.connection.recv(timeout=PATIENCE_S))

    def utterance(self) -> Heard:
        while (heard := self.read()) is None:
            pass
        return heard

    def error(self) -> Json:
        answer = self.receive()
        assert answer["type"] == "error", answer
        return answer


@contextmanager
def open_socket(server: Served, **options: Any) -> Iterator[Socket]:
    settings = {"max_size": 2**25, "open_timeout": PATIENCE_S, "proxy": None, **options}
    with connect(server.ws_url + PATH, **settings) as connection:
        yield Socket(connection)
