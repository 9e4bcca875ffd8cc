"""Twilio's end of a Media Streams connection: it plays what it gets when the test says so, and returns the marks."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.contract.serving import HANG_UP_S, PATIENCE_S, Served

SID = "MZ18ad3ab5a668481ce02b83e7395059f0"

Json = dict[str, Any]

#: Every message that may be sent, by its event: the names of its fields, and of those inside.
SHAPES = {
    "media": ({"event", "streamSid", "media"}, {"payload"}),
    "mark": ({"event", "streamSid", "mark"}, {"name"}),
    "clear": ({"event", "streamSid"}, None),
}


class Phone:
    """A scripted call. ``plays``: marks are returned as soon as they come."""

    def __init__(self, connection: ClientConnection, sid: str, call_sid: str) -> None:
        self.connection = connection
        self.sid = sid
        self.call_sid = call_sid
        self.plays = True
        self.received: list[Json] = []
        self.audio = b""
        self._number = 0

    def send(self, event: str, **fields: Any) -> None:
        self._number += 1
        message = {"event": event, "sequenceNumber": str(self._number), "streamSid": self.sid, **fields}
        self.connection.send(json.dumps(message))

    def start(self, **parameters: str) -> None:
        self.connection.send(json.dumps({"event": "connected", "protocol": "Call", "version": "1.0.0"}))
        self.send(
            "start",
            start={
                "accountSid": "AC0",
                "callSid": self.call_sid,
                "streamSid": self.sid,
                "tracks": ["inbound"],
                "customParameters": parameters,
                "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
            },
        )

    def says(self, count: int = 3) -> None:
        """What the caller says: 20 ms at a time."""
        for chunk in range(count):
            payload = base64.b64encode(b"\xff" * 160).decode()
            media = {"track": "inbound", "chunk": str(chunk), "timestamp": str(20 * chunk), "payload": payload}
            self.send("media", media=media)

    def receive(self, patience_s: float = PATIENCE_S) -> Json:
        """Return the next message, which must be one that Twilio accepts."""
        data = self.connection.recv(timeout=patience_s)
        assert isinstance(data, str)
        message: Json = json.loads(data)
        fields, inside = SHAPES[message["event"]]
        assert set(message) == fields
        assert message["streamSid"] == self.sid
        assert inside is None or set(message[message["event"]]) == inside
        self.received.append(message)
        if message["event"] == "media":
            payload = base64.b64decode(message["media"]["payload"], validate=True)
            assert payload
            assert len(payload) % 160 == 0
            assert len(payload) <= 800
            self.audio += payload
        elif message["event"] == "mark" and self.plays:
            self.returns(message)
        return message

    def returns(self, mark: Json) -> None:
        self.send("mark", mark=mark["mark"])

    def hears(self, count: int) -> bytes:
        """Receive until there are ``count`` bytes of audio and the mark behind them; return and forget them."""
        while len(self.audio) < count or self.received[-1]["event"] != "mark":
            self.receive()
        audio, self.audio = self.audio, b""
        return audio

    def until(self, event: str) -> Json:
        while (message := self.receive())["event"] != event:
            pass
        return message

    def quiet(self, seconds: float = 0.3) -> bool:
        """Whether nothing comes for a while."""
        try:
            self.receive(patience_s=seconds)
        except TimeoutError:
            return True
        return False

    def closed(self) -> int:
        """Receive until the server closes; return its code."""
        with pytest.raises(ConnectionClosed) as closed:  # noqa: PT012
            while True:
                self.receive()
        assert closed.value.rcvd is not None
        return closed.value.rcvd.code


@contextmanager
def dial(server: Served, sid: str = SID, call_sid: str = "CA0", **options: Any) -> Iterator[Phone]:
    with connect(
        f"{server.ws_url}/ws/twilio", open_timeout=PATIENCE_S, close_timeout=HANG_UP_S, proxy=None, **options
    ) as connection:
        yield Phone(connection, sid, call_sid)


def post(server: Served, action: str, body: object = None, sid: str = SID) -> httpx.Response:
    url = f"{server.url}/calls/{sid}/{action}"
    return httpx.post(url, json=body, timeout=PATIENCE_S, verify=False)


def whole(server: Served, text: str, seed: int) -> bytes:
    """Return the whole of a text in mu-law at 8 kHz, as another wire format gives it, filled up to a frame."""
    body = {"text": text, "voiceId": "anna", "seed": seed, "audioConfig": {"audioEncoding": "MULAW"}}
    answer = httpx.post(f"{server.url}/tts/v1/voice:stream", json=body, timeout=PATIENCE_S, verify=False)
    results = [json.loads(line)["result"] for line in answer.text.splitlines()]
    audio = b"".join(base64.b64decode(result["audioContent"]) for result in results)
    return audio + b"\xff" * (-len(audio) % 160)
