"""The lines of a streamed answer: base64 audio, usage and timestamps, the same over HTTP and on the socket."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator

from compat.inworld.schemas import TimestampType, Voicing
from compat.inworld.timestamps import speech_span, timestamp_info
from echo.service import SpeechStream
from routes.response import LINE_AUDIO_BYTES

#: Kept for the last line where timestamps must travel with audio; about 20 ms of 16-bit audio.
_HELD_BYTES = 2 * 1024
#: pipecat strips a WAV header only from a chunk that is longer than it.
_WAV_HEADER = 44


async def payloads(stream: SpeechStream, voicing: Voicing, text: str) -> AsyncIterator[dict[str, object]]:
    """Yield the payload of every line.

    ``processedCharactersCount`` is the real one on the first line only, because clients add the values up.
    Timestamps need the final duration: they come with the last audio, or after it where the client wants them apart.
    """
    asked = voicing.timestamp_type is not TimestampType.NONE
    held_back = _HELD_BYTES if asked and not voicing.timestamps_last else 0
    count, waiting, first = len(text), b"", True
    async for data in stream:
        waiting += data
        while len(waiting) - held_back > (_WAV_HEADER if first else 0):
            take = min(LINE_AUDIO_BYTES, len(waiting) - held_back)
            yield _audio(waiting[:take], count, voicing.model_id)
            waiting, count, first = waiting[take:], 0, False
    times = timestamps(stream, voicing, text)
    if waiting:
        line = _audio(waiting, count, voicing.model_id)
        if times is not None and held_back:
            line, times = {**line, "timestampInfo": times}, None
        yield line
    if times is not None:
        yield {"timestampInfo": times}


def whole(stream: SpeechStream, audio: bytes, voicing: Voicing, text: str) -> dict[str, object]:
    """Return the answer in one piece."""
    times = timestamps(stream, voicing, text)
    answer = _audio(audio, len(text), voicing.model_id)
    return answer if times is None else {**answer, "timestampInfo": times}


def timestamps(stream: SpeechStream, voicing: Voicing, text: str) -> dict[str, object] | None:
    """Estimate the timestamps of an exhausted stream; None when none were asked for."""
    stats = stream.stats
    span = speech_span(stats.audio_s, stats.speech_start_s, stats.speech_end_s, stream.output.duration_s)
    return timestamp_info(voicing.timestamp_type, text, span)


def _audio(audio: bytes, count: int, model: str) -> dict[str, object]:
    usage = {"processedCharactersCount": count, "modelId": model}
    return {"audioContent": base64.b64encode(audio).decode(), "usage": usage}
