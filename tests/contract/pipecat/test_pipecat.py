"""pipecat's TTS services as docs/integrations/pipecat.md sets them up, each in a pipeline of its own."""

from __future__ import annotations

from typing import Any

import pytest

from echo.audio.join import JoinRules
from tests.contract.docs.audio import spoken_seconds
from tests.contract.docs.pages import aimed
from tests.contract.pipecat.hearing import (
    PAGE,
    AggregatedTextFrame,
    Heard,
    TTSSpeakFrame,
    TTSStoppedFrame,
    answer,
    hear,
    interrupted,
    run_test,
    spoken,
)
from tests.contract.serving import PATIENCE_S, Gate, Served, serving

OPENAI, SOCKET, HTTP = "OpenAI", "Inworld over a WebSocket", "Inworld over HTTP"
ELEVEN_SOCKET, ELEVEN_HTTP = "ElevenLabs over a WebSocket", "ElevenLabs over HTTP"
WITH_TIMES = [SOCKET, HTTP, ELEVEN_SOCKET, ELEVEN_HTTP]
TEXT = "Hello there. How are you today?"
WORDS = TEXT.split()


@pytest.mark.parametrize("heading", [OPENAI, *WITH_TIMES])
async def test_speech_has_the_rate_of_the_pipeline(checkout: Served, heading: str) -> None:
    heard = await hear(heading, checkout, TTSSpeakFrame(TEXT))
    assert not heard.errors
    assert {(frame.sample_rate, frame.num_channels) for frame in heard.audio} == {(24_000, 1)}
    assert all(len(frame.audio) % 2 == 0 for frame in heard.audio)
    assert heard.seconds == pytest.approx(spoken_seconds(checkout), abs=0.1)
    assert isinstance(heard.down[-1], TTSStoppedFrame)


@pytest.mark.parametrize("heading", WITH_TIMES)
async def test_the_others_speak_at_any_rate(checkout: Served, heading: str) -> None:
    heard = await hear(heading, checkout, TTSSpeakFrame(TEXT), rate=16_000)
    assert {frame.sample_rate for frame in heard.audio} == {16_000}
    assert heard.seconds == pytest.approx(spoken_seconds(checkout), abs=0.1)


async def test_openai_speaks_at_the_rate_that_the_server_is_set_to() -> None:
    settings = PAGE.server_settings("Another sample rate")
    with serving(settings) as server:
        heard = await hear(OPENAI, server, TTSSpeakFrame(TEXT), rate=settings.pcm_sample_rate)
        assert {frame.sample_rate for frame in heard.audio} == {16_000}
        assert heard.seconds == pytest.approx(spoken_seconds(server), abs=0.1)


@pytest.mark.parametrize("heading", WITH_TIMES)
async def test_every_word_comes_with_its_time(checkout: Served, heading: str) -> None:
    heard = await hear(heading, checkout, TTSSpeakFrame(TEXT))
    assert [frame.text for frame in heard.words] == WORDS
    times = [frame.pts for frame in heard.words if frame.pts is not None]
    assert len(times) == len(WORDS)
    assert times == sorted(times)
    assert (times[-1] - times[0]) / 1e9 < heard.seconds


async def test_an_answer_is_spoken_sentence_by_sentence(checkout: Served) -> None:
    heard = await hear(SOCKET, checkout, *answer("Hel", "lo there", ". How", " are you", " today?"))
    assert not heard.errors
    assert spoken(checkout) == ["Hello there.", "How are you today?"]
    assert [frame.text for frame in heard.words] == WORDS
    times = [frame.pts for frame in heard.words if frame.pts is not None]
    # The second sentence's times start at 0 again; pipecat adds those of the first.
    assert times == sorted(times)
    # Between the two is the pause of two sentences.
    assert heard.seconds == pytest.approx(spoken_seconds(checkout) + JoinRules().pause_ms / 1000, abs=0.1)


async def test_one_connection_serves_many_turns(checkout: Served) -> None:
    turns = [frame for turn in range(6) for frame in answer(f"This is turn {turn}.")]
    heard = await hear(SOCKET, checkout, *turns)
    assert not heard.errors
    assert len(checkout.script.spoken) == 6
    said = " ".join(frame.text for frame in heard.words)
    assert all(f"turn {turn}." in said for turn in range(6))


async def test_after_an_interruption_the_next_answer_is_spoken_at_once(checkout: Served) -> None:
    checkout.script.render = gate = Gate(block=1)
    long = "This sentence goes on and on, so that it takes several blocks to be spoken by anybody at all."
    heard = await hear(SOCKET, checkout, later=interrupted(checkout, gate, answer(long)))
    assert not gate.expired
    assert not heard.errors
    words = [frame.text for frame in heard.words]
    assert words[-3:] == ["I", "am", "listening."]
    assert "all." not in words


async def test_a_voice_can_be_changed_on_the_way(checkout: Served) -> None:
    heard = await hear(SOCKET, checkout, TTSSpeakFrame(TEXT), voice="tiny_dan")
    assert not heard.errors
    assert heard.seconds > 1


@pytest.mark.parametrize("heading", [SOCKET, HTTP, ELEVEN_HTTP])
async def test_an_unknown_voice_is_an_error_that_names_it(checkout: Served, heading: str) -> None:
    heard = await hear(heading, checkout, TTSSpeakFrame(TEXT), voice="nobody", error="nobody")
    assert any("nobody" in error for error in heard.errors)
    assert not heard.audio


async def test_openai_takes_a_refusal_for_an_error_frame(checkout: Served) -> None:
    heard = await hear(OPENAI, checkout, TTSSpeakFrame("x" * 5000), error="4096")
    assert any("4096" in error for error in heard.errors)
    assert not heard.audio


async def test_openai_voices_can_be_given_to_voices_of_the_server() -> None:
    with serving(PAGE.server_settings(OPENAI)) as server:
        heard = await hear(OPENAI, server, TTSSpeakFrame(TEXT), voice="onyx")
        assert heard.seconds == pytest.approx(spoken_seconds(server), abs=0.1)
        aliases = server.runtime.settings.aliases
        assert server.runtime.voices.find("onyx").id == aliases["onyx"]


async def test_a_keep_alive_between_turns_does_no_harm(checkout: Served) -> None:
    names: dict[str, Any] = {}
    exec(aimed(PAGE.block(SOCKET, "python"), checkout), names)
    tts = names["tts"]

    async def keep_alive(service: Any) -> None:
        await service._send_keepalive()  # it does so by itself every minute

    tts.add_event_handler("on_connected", keep_alive)
    down, up = await run_test(tts, frames_to_send=[TTSSpeakFrame(TEXT)], start_timeout=PATIENCE_S)
    assert not Heard(down, up).errors
    assert any(isinstance(frame, AggregatedTextFrame) for frame in down)
