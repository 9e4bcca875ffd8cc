"""Clients that hang up at any moment of any request."""

from __future__ import annotations

import contextlib
import json
import random
import time

from tests.attack.conftest import SECONDS, Target
from tests.attack.raw import Raw, request, speech

WORDS = "Nobody hears this to the end, for whoever asked for it has left the room already. "


def any_request(dice: random.Random) -> bytes:
    text = WORDS * dice.randint(1, 6)
    inworld = json.dumps({"text": text, "voiceId": "tiny_anna"}).encode()
    xtts = json.dumps({"text": text, "speaker_wav": "tiny_dan", "language": "en"}).encode()
    return dice.choice(
        [
            speech(input=text, response_format="pcm"),
            speech(input=text, response_format="mp3"),
            speech(input=text, response_format="wav"),
            speech(input=text, response_format="pcm", stream_format="sse"),
            request("POST", "/tts/v1/voice", inworld),
            request("POST", "/tts/v1/voice:stream", inworld),
            request("POST", "/tts_to_audio", xtts),
            request("GET", "/tts_stream?speaker_wav=tiny_beth&text=" + "hello%20there%20" * 20),
            request("GET", "/v1/voices"),
            request("GET", "/metrics"),
        ]
    )


def test_random_hang_ups(target: Target, dice: random.Random) -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        connection, data = Raw(target.port), any_request(dice)
        sent = dice.choice([len(data), len(data), dice.randrange(len(data))])
        connection.send(data[:sent])
        if dice.random() < 0.5:
            time.sleep(dice.random() * 0.2)
        if sent == len(data) and dice.random() < 0.3:
            connection.socket.settimeout(1)
            with contextlib.suppress(OSError):
                connection.socket.recv(dice.randint(1, 5000))
        dice.choice([connection.close, connection.reset])()
