"""Conversations through pipecat's ElevenLabs service as docs/integrations/pipecat.md sets it up."""

from __future__ import annotations

import asyncio

import pytest

from echo.audio.join import JoinRules
from tests.contract.docs.audio import spoken_seconds
from tests.contract.pipecat.hearing import (
    ElevenLabsDialogueTTSService,
    ElevenLabsTTSService,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    TextAggregationMode,
    TTSSpeakFrame,
    TTSStoppedFrame,
    answer,
    hear,
    interrupted,
    listen,
    spoken,
)
from tests.contract.serving import Gate, Served, wait_until

SOCKET = "ElevenLabs over a WebSocket"
#: Three blocks of audio.
LONG = (
    "This sentence goes on and on, so that it takes several blocks to be spoken by anybody at all, and it goes "
    "on still, until at last it ends here."
)


async def cancelled(server: Served, text: str) -> None:
    """Wait until the engine has given up a text, and nothing else."""
    await asyncio.to_thread(wait_until, lambda: bool(server.script.cancelled))
    assert [utterance.text.removeprefix("[S1] ") for utterance in server.script.cancelled] == [text]


async def test_two_turns_with_the_times_of_their_words(checkout: Served) -> None:
    turns = [*answer("Hel", "lo there", ". How", " are you", " today?"), *answer("I am", " fine.")]
    heard = await hear(SOCKET, checkout, *turns)
    assert not heard.errors
    assert spoken(checkout) == ["Hello there.", "How are you today?", "I am fine."]
    assert " ".join(frame.text for frame in heard.words) == "Hello there. How are you today? I am fine."
    times = [frame.pts for frame in heard.words if frame.pts is not None]
    assert times == sorted(times)
    assert sum(isinstance(frame, TTSStoppedFrame) for frame in heard.down) == 2
    # Between the two sentences of the first turn is their pause; pipecat itself keeps the turns apart.
    assert heard.seconds == pytest.approx(spoken_seconds(checkout) + JoinRules().pause_ms / 1000, abs=0.15)


async def test_the_clock_of_the_words_keeps_up_with_the_audio(checkout: Served) -> None:
    heard = await hear(SOCKET, checkout, *answer("One. ", "Two. ", "Three. ", "Four. ", "Five. ", "Six."))
    times = [frame.pts for frame in heard.words if frame.pts is not None]
    assert len(times) == 6
    # The last word begins where the last sentence does, behind everything else.
    last = spoken_seconds(checkout) / 6
    assert (times[-1] - times[0]) / 1e9 == pytest.approx(heard.seconds - last, abs=0.4)


async def test_many_turns_use_one_connection(checkout: Served) -> None:
    turns = [frame for turn in range(8) for frame in answer(f"This is turn {turn}.")]
    heard = await hear(SOCKET, checkout, *turns)
    assert not heard.errors
    assert spoken(checkout) == [f"This is turn {turn}." for turn in range(8)]


async def test_an_interruption_while_the_answer_is_still_being_written(checkout: Served) -> None:
    checkout.script.render = gate = Gate(block=1)
    frames = [LLMFullResponseStartFrame(), LLMTextFrame(LONG + " And so")]
    heard = await hear(SOCKET, checkout, later=interrupted(checkout, gate, frames))
    assert not gate.expired
    assert not heard.errors
    assert spoken(checkout) == [LONG, "I am listening."]
    await cancelled(checkout, LONG)
    assert [frame.text for frame in heard.words] == ["I", "am", "listening."]


async def test_an_interruption_while_the_rest_is_playing(checkout: Served) -> None:
    checkout.script.render = gate = Gate(block=1)
    frames = answer("Well.", " " + LONG)
    heard = await hear(SOCKET, checkout, later=interrupted(checkout, gate, frames, passages=3))
    assert not gate.expired
    assert not heard.errors
    assert spoken(checkout) == ["Well.", LONG, "I am listening."]
    await cancelled(checkout, LONG)
    words = [frame.text for frame in heard.words]
    assert words[-3:] == ["I", "am", "listening."]
    assert "here." not in words


async def test_tokens_are_put_together_by_the_server(checkout: Served) -> None:
    tts = ElevenLabsTTSService(
        url=checkout.ws_url,
        api_key="none",
        settings=ElevenLabsTTSService.Settings(voice="tiny_anna"),
        text_aggregation_mode=TextAggregationMode.TOKEN,
    )
    heard = await listen(tts, answer("Hel", "lo there", ". How", " are you", " to", "day?"))
    assert not heard.errors
    assert spoken(checkout) == ["Hello there. How are you today?"]
    assert [frame.text for frame in heard.words] == ["Hello", "there.", "How", "are", "you", "today?"]


async def test_the_service_of_the_dialogue_interface(checkout: Served) -> None:
    tts = ElevenLabsDialogueTTSService(
        url=checkout.ws_url,
        api_key="none",
        settings=ElevenLabsDialogueTTSService.Settings(voice="tiny_anna"),
    )
    heard = await listen(tts, [*answer("Hello there. How", " are you today?"), *answer("I am fine.")])
    assert not heard.errors
    assert " ".join(frame.text for frame in heard.words) == "Hello there. How are you today? I am fine."
    times = [frame.pts for frame in heard.words if frame.pts is not None]
    assert times == sorted(times)
    assert sum(isinstance(frame, TTSStoppedFrame) for frame in heard.down) == 2


async def test_a_text_without_a_mark_at_its_end_is_spoken(checkout: Served) -> None:
    heard = await hear(SOCKET, checkout, TTSSpeakFrame("Please hold the line"), *answer("Still", " there"))
    assert not heard.errors
    assert spoken(checkout) == ["Please hold the line", "Still there"]
    assert " ".join(frame.text for frame in heard.words) == "Please hold the line Still there"


async def test_the_speed_is_that_of_the_settings(checkout: Served) -> None:
    slow = await hear(SOCKET, checkout, TTSSpeakFrame("Hello there."), speed=0.7)
    fast = await hear(SOCKET, checkout, TTSSpeakFrame("Hello there."), speed=1.2)
    assert slow.seconds == pytest.approx(fast.seconds * 1.2 / 0.7, rel=0.1)


async def test_an_unknown_voice_is_refused_before_anything_is_said(checkout: Served) -> None:
    heard = await hear(SOCKET, checkout, TTSSpeakFrame("Hello there."), voice="nobody", error="404")
    assert any("404" in error for error in heard.errors)
    assert not heard.audio
