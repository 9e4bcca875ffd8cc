"""livekit-plugins-inworld as docs/integrations/livekit.md sets it up."""

from __future__ import annotations

import pytest
from livekit.agents import APIError, APIStatusError

from echo.audio.join import JoinRules
from tests.contract.docs.audio import spoken_seconds
from tests.contract.livekit.listening import ONCE, TEXT, TOKENS, check_words, listen, plugin, pushed
from tests.contract.serving import Gate, Served

INWORLD = "Inworld"
PAUSE_S = JoinRules().pause_ms / 1000


async def test_a_text_at_once(checkout: Served) -> None:
    async with plugin(INWORLD, checkout) as tts:
        assert tts.capabilities.aligned_transcript
        heard = await listen(tts.synthesize(TEXT))
    assert heard.rates == {(24_000, 1)}
    assert heard.seconds == pytest.approx(spoken_seconds(checkout), abs=0.05)
    check_words(heard, TEXT)


@pytest.mark.parametrize("model", ["inworld-tts-1.5-max", "inworld-tts-2"])  # the plugin finds sentences, or the server
async def test_a_text_in_tokens(checkout: Served, model: str) -> None:
    # By default three seconds: no pause between two tokens is to have any spoken.
    async with plugin(INWORLD, checkout, model=model, max_buffer_delay_ms=60_000) as tts:
        heard = await listen(pushed(tts.stream(conn_options=ONCE), *TOKENS))
    assert heard.rates == {(24_000, 1)}
    pauses = len(checkout.script.spoken) - 1
    assert pauses >= 1
    assert heard.seconds == pytest.approx(spoken_seconds(checkout) + pauses * PAUSE_S, abs=0.05)
    check_words(heard, TEXT)


#: livekit's decoder leaves out what is in the last block of a FLAC file, at most 4608 samples.
@pytest.mark.parametrize(
    ("encoding", "tolerance_s"), [("PCM", 0.05), ("LINEAR16", 0.05), ("MP3", 0.1), ("OGG_OPUS", 0.1), ("FLAC", 0.25)]
)
async def test_every_encoding_is_decoded(checkout: Served, encoding: str, tolerance_s: float) -> None:
    async with plugin(INWORLD, checkout, encoding=encoding) as tts:
        whole = await listen(tts.synthesize("Hello there.", conn_options=ONCE))
        tokens = await listen(pushed(tts.stream(conn_options=ONCE), "Hello", " there."))
    assert whole.rates == tokens.rates == {(24_000, 1)}
    assert whole.seconds + tokens.seconds == pytest.approx(spoken_seconds(checkout), abs=2 * tolerance_s)


async def test_a_sentence_is_spoken_before_the_next_one_is_written(checkout: Served) -> None:
    async with plugin(INWORLD, checkout, model="inworld-tts-2") as tts, tts.stream(conn_options=ONCE) as stream:
        stream.push_text("This is the first sentence. And this")
        first = await anext(aiter(stream))
        assert first.frame.samples_per_channel > 0
        stream.push_text(" is the second.")
        stream.end_input()
        assert [event async for event in stream]


async def test_streams_side_by_side_share_a_connection(checkout: Served) -> None:
    async with plugin(INWORLD, checkout) as tts:
        tts.prewarm()
        one, other = tts.stream(conn_options=ONCE), tts.stream(conn_options=ONCE)
        pushed(one, "Hello there.")
        pushed(other, "Good evening.")
        check_words(await listen(other), "Good evening.")
        check_words(await listen(one), "Hello there.")


async def test_leaving_early_stops_the_speech(checkout: Served) -> None:
    checkout.script.render = gate = Gate(block=1)
    async with plugin(INWORLD, checkout) as tts:
        stream = pushed(tts.stream(conn_options=ONCE), TEXT * 4)
        await anext(aiter(stream))
        await stream.aclose()
        gate.open()
        heard = await listen(pushed(tts.stream(conn_options=ONCE), "I am listening."))
    assert not gate.expired
    check_words(heard, "I am listening.")


async def test_an_unknown_voice_over_http_is_an_error_and_not_tried_again(checkout: Served) -> None:
    async with plugin(INWORLD, checkout, voice="nobody") as tts:
        with pytest.raises(APIStatusError) as failed:
            await listen(tts.synthesize(TEXT))
    assert (failed.value.status_code, failed.value.retryable) == (404, False)


async def test_an_unknown_voice_on_the_socket_is_an_error_that_names_it(checkout: Served) -> None:
    async with plugin(INWORLD, checkout, voice="nobody") as tts:
        with pytest.raises(APIError, match="nobody"):
            await listen(pushed(tts.stream(conn_options=ONCE), TEXT))


async def test_voices_are_listed_by_language(checkout: Served) -> None:
    async with plugin(INWORLD, checkout) as tts:
        english, german = await tts.list_voices("en"), await tts.list_voices("de")
        everything = await tts.list_voices()
    assert "tiny_anna" in [voice["voiceId"] for voice in english]
    assert (english, german) == (everything, [])
