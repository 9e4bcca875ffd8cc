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
