"""JSON that is small on the wire and large once read, and JSON that is nearly none."""

from __future__ import annotations

import json
import random
import time

from tests.attack.conftest import SECONDS, Target
from tests.attack.raw import ask, request

PATHS = ["/v1/audio/speech", "/tts/v1/voice", "/tts_to_audio", "/voices/v1/voices:clone"]
SIZE = 39 * 2**20


UNITS = [b"[],", b"[", b'"",', b'{"":', b"0,", b'"\\u0041",', b" ", b"\\"]


def test_bombs(target: Target) -> None:
    for unit in UNITS:
        body = b'{"input": "Hello.", "text": "Hello.", "ignored": [' + unit * (SIZE // len(unit)) + b"0]}"
        for path in PATHS:
            answer = ask(target.port, request("POST", path, body))
            assert answer.status in (400, 413), (path, unit)
            assert answer.json()
        assert target.alive


def anything(dice: random.Random, depth: int = 0) -> object:
    values: list[object] = [None, True, -1, 0, 2**63, 10**400, 1e308, "", "a", "\0", "\N{GRINNING FACE}", "a" * 5000]
    kind = dice.random()
    if depth < 4 and kind < 0.15:
        return [anything(dice, depth + 1) for _ in range(dice.randint(0, 4))]
    if depth < 4 and kind < 0.3:
        return {str(anything(dice, 4)): anything(dice, depth + 1) for _ in range(dice.randint(0, 4))}
    return dice.choice(values)


def test_values_of_any_type(target: Target, dice: random.Random) -> None:
    names = ["input", "text", "voice", "voiceId", "speaker_wav", "model", "speed", "seed", "stream", "extra_body"]
    names += ["response_format", "sample_rate", "num_steps", "block_sizes", "cfg_scale_text", "audioConfig", "preset"]
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        body = {name: anything(dice) for name in dice.sample(names, dice.randint(0, 6))}
        data = bytearray(json.dumps(body).encode())
        if dice.random() < 0.3:
            data[dice.randrange(len(data))] = dice.randrange(256)
        answer = ask(target.port, request("POST", dice.choice(PATHS[:3]), bytes(data)))
        assert answer.status in (200, 400, 404), bytes(data)
