"""livekit-plugins-openai as docs/integrations/livekit.md sets it up."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from livekit.agents import APIStatusError
from livekit.plugins import openai

from tests.contract.docs.audio import spoken_seconds
from tests.contract.livekit.listening import ONCE, listen, plugin
from tests.contract.serving import PATIENCE_S, Gate, Served

OPENAI = "OpenAI"
TEXT = "Hello there. How are you today?"


async def test_speech_has_the_rate_that_the_plugin_takes_for_granted(checkout: Served) -> None:
    async with plugin(OPENAI, checkout) as tts:
        heard = await listen(tts.synthesize(TEXT))
    assert heard.rates == {(24_000, 1)}
    assert heard.seconds == pytest.approx(spoken_seconds(checkout), abs=0.05)


#: livekit's decoder leaves out what is in the last block of a FLAC file, at most 4608 samples.
@pytest.mark.parametrize(
    ("response_format", "tolerance_s"),
    [("mp3", 0.1), ("opus", 0.1), ("aac", 0.1), ("flac", 0.15), ("wav", 0.1), ("pcm", 0.05)],
)
@pytest.mark.parametrize("model", ["gpt-4o-mini-tts", "tts-1"])  # asked for as events, and as plain audio
async def test_every_format_is_decoded(checkout: Served, model: str, response_format: str, tolerance_s: float) -> None:
    tts = openai.TTS(
        base_url=f"{checkout.url}/v1", api_key="none", model=model, voice="tiny_anna", response_format=response_format
    )
    heard = await listen(tts.synthesize(TEXT, conn_options=ONCE))
    await tts.aclose()
    assert heard.rates == {(24_000, 1)}
    assert heard.seconds == pytest.approx(spoken_seconds(checkout), abs=tolerance_s)


async def test_its_own_defaults_work(checkout: Served) -> None:
    tts = openai.TTS(base_url=f"{checkout.url}/v1", api_key="none")  # MP3 in events, voice "ash"
    tts.prewarm()
    heard = await listen(tts.synthesize(TEXT, conn_options=ONCE))
    await tts.aclose()
    assert heard.seconds == pytest.approx(spoken_seconds(checkout), abs=0.1)


async def test_the_usage_is_counted(checkout: Served) -> None:
    async with plugin(OPENAI, checkout) as tts:
        measured: list[Any] = []
        tts.on("metrics_collected", measured.append)
        await listen(tts.synthesize(TEXT))
    (metrics,) = measured
    assert (metrics.cancelled, metrics.characters_count) == (False, len(TEXT))
    assert metrics.input_tokens > 0
    assert metrics.output_tokens > 0


async def test_the_first_audio_comes_before_the_last_is_made(checkout: Served) -> None:
    checkout.script.render = gate = Gate(block=1)
    async with plugin(OPENAI, checkout) as tts, tts.synthesize(TEXT * 4) as stream:
        await anext(aiter(stream))
        gate.open()
        assert not gate.expired


async def test_an_unknown_voice_is_an_error_and_not_tried_again(checkout: Served) -> None:
    async with plugin(OPENAI, checkout, voice="nobody") as tts:
        with pytest.raises(APIStatusError) as failed:
            await listen(tts.synthesize(TEXT))
    assert (failed.value.status_code, failed.value.retryable) == (400, False)
    assert "nobody" in failed.value.message
    assert failed.value.request_id


async def test_leaving_early_stops_the_speech(checkout: Served) -> None:
    checkout.script.render = gate = Gate(block=1)
    async with plugin(OPENAI, checkout) as tts:
        stream = tts.synthesize(TEXT * 8)
        await anext(aiter(stream))
        assert await asyncio.to_thread(gate.reached.wait, PATIENCE_S)
        await stream.aclose()
        await asyncio.to_thread(checkout.wait_idle)
        gate.open()
    assert not gate.expired
