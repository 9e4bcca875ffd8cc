"""The lines of a streamed answer: base64 audio, usage and timestamps, the same over HTTP and on the socket."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Iterator

from compat.bodies import AudioLines
from compat.inworld.schemas import TimestampType, Voicing
from compat.inworld.timestamps import Span, speech_span, timestamp_info
from echo.service import SpeechStream
from echo.text.times import SpokenText

#: Kept for the last line where timestamps must travel with audio; about 20 ms of 16-bit audio.
_HELD_BYTES = 2 * 1024
#: pipecat strips a WAV header only from a chunk that is longer than it.
_WAV_HEADER = 44


class Lines:
    """Cuts the audio of a text into the payloads of lines.

    ``processedCharactersCount`` is the real one on the first line only, because clients add the values up. Timestamps
    need the final duration: they come with the last audio, or after it where the client wants them apart.
    """

    def __init__(self, voicing: Voicing, text: str) -> None:
        self._voicing = voicing
        self._text = text
        self._count = len(text)
        asked = voicing.timestamp_type is not TimestampType.NONE
        self._sync = asked and not voicing.timestamps_last
        self._audio = AudioLines(held=_HELD_BYTES if self._sync else 0, header=_WAV_HEADER)

    def add(self, data: bytes) -> Iterator[dict[str, object]]:
        """Take more audio; yield the payloads that are ready."""
        for piece in self._audio.add(data):
            yield self._line(piece)

    def end(self, span: Span, spoken: SpokenText | None = None) -> Iterator[dict[str, object]]:
        """End the audio of the text, of which ``span`` is speech; yield the last payloads. Silence may follow.

        ``spoken`` are the times of its words; None: estimated.
        """
        times = timestamp_info(self._voicing.timestamp_type, self._text, span, spoken)
        if last := self._audio.end():
            line = self._line(last)
            if times is not None and self._sync:
                line, times = {**line, "timestampInfo": times}, None
            yield line
        if times is not None:
            yield {"timestampInfo": times}

    def _line(self, audio: bytes) -> dict[str, object]:
        count, self._count = self._count, 0
        return _audio(audio, count, self._voicing.model_id)


async def payloads(stream: SpeechStream, voicing: Voicing, text: str) -> AsyncIterator[dict[str, object]]:
    """Yield the payload of every line of a stream."""
    lines = Lines(voicing, text)
    async for data in stream:
        for payload in lines.add(data):
            yield payload
    for payload in lines.end(_span(stream), _times(stream)):
        yield payload


def whole(stream: SpeechStream, audio: bytes, voicing: Voicing, text: str) -> dict[str, object]:
    """Return the answer in one piece."""
    times = timestamp_info(voicing.timestamp_type, text, _span(stream), _times(stream))
    answer = _audio(audio, len(text), voicing.model_id)
    return answer if times is None else {**answer, "timestampInfo": times}


def _span(stream: SpeechStream) -> Span:
    """Return where the speech of an exhausted stream lies."""
    stats = stream.stats
    return speech_span(stats.audio_s, stats.speech_start_s, stats.speech_end_s, stream.output.duration_s)


def _times(stream: SpeechStream) -> SpokenText | None:
    """Return the times of the words of an exhausted stream, which lie within its audio; None where there are none."""
    if stream.times is None or not stream.times.words:
        return None
    scale = stream.output.duration_s / stream.stats.audio_s
    return stream.times.spoken().placed(lambda second: min(second * scale, stream.output.duration_s))


def _audio(audio: bytes, count: int, model: str) -> dict[str, object]:
    usage = {"processedCharactersCount": count, "modelId": model}
    return {"audioContent": base64.b64encode(audio).decode(), "usage": usage}
