"""Audio as server-sent events: OpenAI's ``stream_format: "sse"``."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

from typing_extensions import override

from echo.errors import EchoError
from echo.service import SpeechStream
from echo.types import LATENT_S
from routes.errors import describe, error_info
from routes.response import LINE_AUDIO_BYTES, ByteStream

log = logging.getLogger(__name__)

#: The Content-Type, sent without a charset: an event stream is always UTF-8.
MEDIA_TYPE = "text/event-stream"
#: Seconds without audio after which a comment is sent, so that clients and proxies do not time out (livekit: 30 s).
_PING_S = 10.0


class SpeechEvents(ByteStream):
    """Wraps a SpeechStream: delta events, then one ``done`` or one ``error``."""

    def __init__(self, stream: SpeechStream, text: str, *, ping_s: float = _PING_S) -> None:
        self._stream = stream
        self._text = text
        self._told = 0  # words
        self._ping_s = ping_s
        self._events = self._produce()

    @override
    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._events

    @override
    def close(self) -> None:
        self._stream.close()

    async def _produce(self) -> AsyncGenerator[bytes]:
        try:
            async for piece in self._pieces():
                if piece is None:
                    yield b": ping\n\n"
                    continue
                for start in range(0, len(piece), LINE_AUDIO_BYTES):
                    audio = base64.b64encode(piece[start : start + LINE_AUDIO_BYTES]).decode("ascii")
                    yield _event({"type": "speech.audio.delta", "audio": audio, **self._new_words()})
        except Exception as error:
            if not isinstance(error, EchoError):
                log.exception("speech failed after the first byte")
            yield _event({"error": error_info(describe(error)).model_dump()})
            return
        yield _event(
            {
                "type": "speech.audio.done",
                "usage": usage(self._text, self._stream),
                "stats": stats(self._stream),
                **self._new_words(last=True),
            }
        )

    def _new_words(self, *, last: bool = False) -> dict[str, object]:
        """The words whose times have become known since the last event; nothing where the request did not ask."""
        times = self._stream.times
        if times is None or (len(times.words) == self._told and not last):
            return {}
        words = times.words[self._told :]
        self._told += len(words)
        return {
            "timestamps": [
                {"word": word.text, "start_ms": round(word.start_s * 1000), "end_ms": round(word.end_s * 1000)}
                for word in words
            ],
            "timestamps_method": times.method.value,
        }

    async def _pieces(self) -> AsyncGenerator[bytes | None]:
        """The stream's pieces; None for every ``ping_s`` seconds without one."""
        while True:
            waiting = asyncio.ensure_future(_next(self._stream))
            try:
                while not (await asyncio.wait((waiting,), timeout=self._ping_s))[0]:
                    yield None
            finally:
                waiting.cancel()  # has no effect unless this generator was closed meanwhile
            if (piece := waiting.result()) is None:
                return
            yield piece


def usage(text: str, stream: SpeechStream) -> dict[str, int]:
    """Count tokens of an exhausted stream, rounded up: one per four bytes of text and per latent of audio (46.4 ms)."""
    given = math.ceil(len(text.encode()) / 4)
    # Rounded first: the float of 13 whole latents lies above 13.
    made = math.ceil(round(stream.stats.audio_s / LATENT_S, 6))
    return {"input_tokens": given, "output_tokens": made, "total_tokens": given + made}


def stats(stream: SpeechStream) -> dict[str, float | int | None]:
    """Tell how an exhausted stream was made; in seconds since the request, but for the audio's and the voice's length.

    ``queue_s`` is how long the first chunk waited for the engine, None where the engine does not say.
    """
    done = stream.stats
    seconds = {
        "audio_s": done.audio_s,
        "voice_s": done.voice_s,
        "queue_s": done.queue_s,
        "first_audio_s": done.first_frame_s,
        "total_s": done.total_s,
    }
    return {
        **{name: None if value is None else round(value, 4) for name, value in seconds.items()},
        "rerolls": done.rerolls,
    }


async def _next(stream: SpeechStream) -> bytes | None:
    return await anext(stream, None)


def _event(data: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"
