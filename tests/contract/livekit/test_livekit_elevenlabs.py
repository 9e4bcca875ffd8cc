"""livekit-plugins-elevenlabs as docs/integrations/livekit.md sets it up."""

from __future__ import annotations

import pytest
from livekit.agents import APIStatusError
from livekit.plugins import elevenlabs

from echo.audio.join import JoinRules
from echo.engines.fake import FakeScript
from tests.contract.docs.audio import spoken_seconds
from tests.contract.livekit.listening import ONCE, TEXT, TOKENS, check_words, listen, plugin, pushed
from tests.contract.serving import Gate, Served

ELEVENLABS = "ElevenLabs"
PAUSE_S = JoinRules().pause_ms / 1000
LONG = "This text goes on and on, so that it takes several blocks to be spoken by anybody at all. " * 3


async def test_a_text_at_once(checkout: Served) -> None:
    async with plugin(ELEVENLABS, checkout) as tts:
        heard = await listen(tts.synthesize(TEXT, conn_options=ONCE))
    assert heard.rates == {(24_000, 1)}
    assert heard.seconds == pytest.approx(spoken_seconds(checkout), abs=0.05)


async def test_a_text_in_tokens(checkout: Served) -> None:
    async with plugin(ELEVENLABS, checkout) as tts:
        assert tts.capabilities.aligned_transcript
        heard = await listen(pushed(tts.stream(conn_options=ONCE), *TOKENS))
    assert heard.rates == {(24_000, 1)}
    pauses = len(checkout.script.spoken) - 1
    assert pauses >= 1
    assert heard.seconds == pytest.approx(spoken_seconds(checkout) + pauses * PAUSE_S, abs=0.15)
    check_words(heard, TEXT)


async def test_two_turns_on_one_connection(checkout: Served) -> None:
    async with plugin(ELEVENLABS, checkout) as tts:
        for text in ("Hello there. How are you?", "I am fine."):
            check_words(await listen(pushed(tts.stream(conn_options=ONCE), text)), text)


async def test_streams_side_by_side_share_a_connection(checkout: Served) -> None:
    async with plugin(ELEVENLABS, checkout) as tts:
        tts.prewarm()
        one, other = tts.stream(conn_options=ONCE), tts.stream(conn_options=ONCE)
        pushed(one, "Hello there.")
        pushed(other, "Good evening.")
        check_words(await listen(other), "Good evening.")
        check_words(await listen(one), "Hello there.")


async def test_a_sentence_is_spoken_before_the_next_one_is_written(checkout: Served) -> None:
    async with plugin(ELEVENLABS, checkout) as tts, tts.stream(conn_options=ONCE) as stream:
        stream.push_text("This is the first sentence of the text. And this here")
        first = await anext(aiter(stream))
        assert first.frame.samples_per_channel > 0
        stream.push_text(" is the second.")
        stream.end_input()
        assert [event async for event in stream]


async def test_words_are_put_together_by_the_server(checkout: Served) -> None:
    """With a schedule the plugin sends word by word."""
    async with plugin(ELEVENLABS, checkout):
        tts = elevenlabs.TTS(
            base_url=f"{checkout.url}/v1",
            api_key="none",
            voice_id="tiny_anna",
            encoding="pcm_24000",
            chunk_length_schedule=[50],
        )
        heard = await listen(pushed(tts.stream(conn_options=ONCE), TEXT, " ", TEXT))
        await tts.aclose()
    assert len(checkout.script.spoken) > 1
    check_words(heard, f"{TEXT} {TEXT}")


@pytest.mark.parametrize("encoding", ["mp3_22050_32", "mp3_44100_128", "opus_48000_64", "pcm_16000", "pcm_44100"])
async def test_every_encoding_is_decoded(checkout: Served, encoding: str) -> None:
    async with plugin(ELEVENLABS, checkout):
        tts = elevenlabs.TTS(base_url=f"{checkout.url}/v1", api_key="none", voice_id="tiny_anna", encoding=encoding)
        whole = await listen(tts.synthesize("Hello there.", conn_options=ONCE))
        tokens = await listen(pushed(tts.stream(conn_options=ONCE), "Hello", " there."))
        await tts.aclose()
    assert whole.rates == tokens.rates == {(int(encoding.split("_")[1]), 1)}
    assert whole.seconds + tokens.seconds == pytest.approx(spoken_seconds(checkout), abs=0.2)


async def test_interruptions_take_no_place_from_the_turns_that_follow(checkout: Served) -> None:
    checkout.script.render = gate = Gate(block=1)
    async with plugin(ELEVENLABS, checkout) as tts:
        for _ in range(7):  # more than may be open at a time
            checkout.script.spoken.clear()
            stream = tts.stream(conn_options=ONCE)
            stream.push_text(LONG + "And so")
            await anext(aiter(stream))
            await stream.aclose()
        gate.open()
        heard = await listen(pushed(tts.stream(conn_options=ONCE), "I am listening."))
    assert not gate.expired
    check_words(heard, "I am listening.")


async def test_a_failure_ends_the_turn_and_not_the_connection(checkout: Served) -> None:
    async with plugin(ELEVENLABS, checkout) as tts:
        checkout.script.fail_before = True
        with pytest.raises(APIStatusError):
            await listen(pushed(tts.stream(conn_options=ONCE), "Hello there."))
        checkout.engine.script = FakeScript()
        check_words(await listen(pushed(tts.stream(conn_options=ONCE), "Hello again.")), "Hello again.")


async def test_the_models_of_the_dialogue_interface(checkout: Served) -> None:
    async with plugin(ELEVENLABS, checkout, model="eleven_v3") as tts:
        whole = await listen(tts.synthesize(TEXT, conn_options=ONCE))
        assert whole.seconds == pytest.approx(spoken_seconds(checkout), abs=0.05)
        checkout.engine.script = FakeScript()
        heard = await listen(pushed(tts.stream(conn_options=ONCE), *TOKENS))
        pauses = len(checkout.script.spoken) - 1
        assert heard.seconds == pytest.approx(spoken_seconds(checkout) + pauses * PAUSE_S, abs=0.15)
        check_words(heard, TEXT)
        # The last sentence begins behind the others.
        start = next(word.start_time for word in heard.words if word.strip() == "I")
        assert isinstance(start, float)
        assert start == pytest.approx(heard.seconds - 0.06 * len("[S1] I am fine, thanks for asking."), abs=0.5)


async def test_an_unknown_voice_is_a_status_and_not_tried_again(checkout: Served) -> None:
    async with plugin(ELEVENLABS, checkout, voice_id="nobody") as tts:
        with pytest.raises(APIStatusError) as failed:
            await listen(tts.synthesize(TEXT))
        assert (failed.value.status_code, failed.value.retryable) == (404, False)
        with pytest.raises(APIStatusError) as failed:
            await listen(pushed(tts.stream(), TEXT))
        assert (failed.value.status_code, failed.value.retryable) == (404, False)


async def test_voices_are_listed(checkout: Served) -> None:
    async with plugin(ELEVENLABS, checkout) as tts:
        voices = await tts.list_voices()
    assert "tiny_anna" in [voice.id for voice in voices]
    assert {voice.category for voice in voices} == {"premade"}
