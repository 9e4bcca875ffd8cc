"""Names that are paths, and audio in place of a name that is none."""

from __future__ import annotations

import base64
import random
import time

from tests.attack.conftest import SECONDS, Target
from tests.attack.raw import ask, speech
from tests.processes import ROOT

NAMES = [
    "../../etc/passwd",
    "/etc/passwd",
    "..",
    ".",
    "~",
    "a\0b",
    "%2e%2e/x",
    "C:\\x",
    "tiny_anna/..",
    "a" * 5000,
]


def test_names_that_are_paths(target: Target) -> None:
    for name in NAMES:
        answer = ask(target.port, speech(voice=name, response_format="pcm"))
        assert answer.status == 400, name
        assert b"root:" not in answer.body


def test_clips_that_are_cut_short(target: Target, dice: random.Random) -> None:
    clip = next((ROOT / "audio_prompts").glob("*.flac")).read_bytes()
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        data = clip[: dice.randint(1, len(clip))] + dice.randbytes(dice.choice([0, 10, 1000]))
        voice = base64.b64encode(data).decode()
        answer = ask(target.port, speech(voice=voice, response_format="pcm", num_steps=1))
        assert answer.status in (200, 400), len(data)
