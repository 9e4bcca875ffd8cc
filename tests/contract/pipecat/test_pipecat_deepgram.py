"""pipecat's Deepgram service as docs/integrations/pipecat.md sets it up."""

from __future__ import annotations

import pytest

from tests.contract.docs.audio import spoken_seconds
from tests.contract.pipecat.hearing import TTSStoppedFrame, answer, hear, interrupted, spoken
from tests.contract.serving import Gate, Served

SOCKET = "Deepgram"


async def test_turn_after_turn_is_spoken(checkout: Served) -> None:
    turns = [*answer("Hel", "lo there", ". How", " are you?"), *answer("And once more.")]
    heard = await hear(SOCKET, checkout, *turns)
    assert not heard.errors
    assert {frame.sample_rate for frame in heard.audio} == {24_000}
    assert heard.seconds == pytest.approx(spoken_seconds(checkout), abs=0.6)
    assert sum(isinstance(frame, TTSStoppedFrame) for frame in heard.down) == 2
    assert spoken(checkout) == ["Hello there.", "How are you?", "And once more."]


async def test_an_answer_is_interrupted(checkout: Served) -> None:
    checkout.script.render = gate = Gate(block=1)
    long = "This sentence goes on and on so that it takes several blocks to be spoken by anybody at all."
    heard = await hear(SOCKET, checkout, later=interrupted(checkout, gate, answer(long)))
    assert not gate.expired
    assert not heard.errors
    assert spoken(checkout)[-1] == "I am listening."
