"""Texts of any letters: spoken or refused, and nothing breaks."""

from __future__ import annotations

import random
import time

from tests.attack.conftest import SECONDS, Target
from tests.attack.raw import ask, speech

LETTERS = [chr(code) for code in (*range(1, 0x250), *range(0x300, 0x370), 0x200B, 0x202E, 0xFEFF, 0x1F600, 0x10FFFF)]
PARTS = [
    "Hello",
    "...",
    "[pause:0.1s]",
    "*sighs*",
    "http://a.b/c",
    "1.234,56",
    "MR.",
    "\n\n",
    "!?",
    "<b>",
    "(S1)",
    "\t",
]


def test_texts_of_any_letters(target: Target, dice: random.Random) -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        parts = [
            dice.choice(PARTS) if dice.random() < 0.5 else dice.choice(LETTERS) for _ in range(dice.randint(1, 60))
        ]
        text = "Well, " + "".join(parts)
        answer = ask(target.port, speech(input=text, response_format="pcm", num_steps=1))
        assert answer.status in (200, 400), text
