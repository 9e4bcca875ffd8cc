"""Listening to a plugin's stream."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from livekit.agents import APIConnectOptions, tts
from livekit.agents.types import USERDATA_TIMED_TRANSCRIPT
from livekit.agents.utils import http_context
from livekit.agents.voice.io import TimedString

from tests.contract.docs.pages import Page, aimed
from tests.contract.serving import PATIENCE_S, Served

PAGE = Page("livekit")
#: A failure is a failure: nothing is tried again.
ONCE = APIConnectOptions(max_retry=0, timeout=PATIENCE_S)
TOKENS = ["Hel", "lo the", "re. How", " are you ", "today? I am ", "fine, thanks for asking."]
TEXT = "".join(TOKENS)


@dataclass(slots=True)
class Heard:
    """What a stream delivered."""

    seconds: float = 0.0
    rates: set[tuple[int, int]] = field(default_factory=set)
    words: list[TimedString] = field(default_factory=list)


@asynccontextmanager
async def plugin(heading: str, server: Served, **options: Any) -> AsyncIterator[Any]:
    """The plugin of a section of the page; ``options`` change what its ``update_options`` takes."""
    async with http_context.open():  # what an agent's job has open
        names: dict[str, Any] = {}
        exec(aimed(PAGE.block(heading, "python"), server), names)
        names["tts"].update_options(**options)
        try:
            yield names["tts"]
        finally:
            await names["tts"].aclose()


async def listen(stream: tts.ChunkedStream | tts.SynthesizeStream) -> Heard:
    """Read a stream to its end."""
    heard = Heard()
    async with stream:
        async for event in stream:
            heard.seconds += event.frame.duration
            heard.rates.add((event.frame.sample_rate, event.frame.num_channels))
            heard.words += event.frame.userdata.get(USERDATA_TIMED_TRANSCRIPT, [])
    return heard


def pushed(stream: tts.SynthesizeStream, *tokens: str) -> tts.SynthesizeStream:
    """Give a stream all of its text."""
    for token in tokens:
        stream.push_text(token)
    stream.end_input()
    return stream


def check_words(heard: Heard, text: str) -> None:
    """Check that the words are the text's, in order and within the audio."""
    assert [word.strip() for word in heard.words] == text.split()
    times = [time for word in heard.words for time in _times(word)]
    assert times == sorted(times)
    assert 0 <= times[0] < times[-1] <= heard.seconds + 0.05


def _times(word: TimedString) -> tuple[float, float]:
    assert isinstance(word.start_time, float)
    assert isinstance(word.end_time, float)
    return word.start_time, word.end_time
