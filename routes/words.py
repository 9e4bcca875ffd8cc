"""Times of words as this server's own routes tell them: ``{"word", "start_ms", "end_ms"}``, as vLLM-Omni does."""

from __future__ import annotations

import json
from collections.abc import Iterable

from echo.service import SpeechStream
from echo.text.times import Timed

#: Longest value of the header. With the others it has to fit into what proxies read of an answer's head: 4096 bytes in
#: nginx (``proxy_buffer_size``), which answers 502 for a longer one.
_HEADER_BYTES = 3072
WORDS, OMITTED, METHOD = "X-Word-Timestamps", "X-Word-Timestamps-Omitted", "X-Word-Timestamps-Method"


def words_told(words: Iterable[Timed]) -> list[dict[str, object]]:
    """Return words as JSON has them, in milliseconds from the first sample."""
    return [
        {"word": word.text, "start_ms": round(word.start_s * 1000), "end_ms": round(word.end_s * 1000)}
        for word in words
    ]


def words_of(stream: SpeechStream) -> dict[str, object]:
    """Return the fields of a JSON answer with the words of an exhausted stream; none where they were not asked for."""
    if stream.times is None:
        return {}
    return {"timestamps": words_told(stream.times.words), "timestamps_method": stream.times.method.value}


def words_headers(stream: SpeechStream) -> dict[str, str]:
    """Return the headers with the words of an exhausted stream; none where they were not asked for.

    Where they would be too long for a head, a header says so instead.
    """
    if stream.times is None:
        return {}
    value = json.dumps(words_told(stream.times.words), separators=(",", ":"))
    told = {WORDS: value} if len(value) <= _HEADER_BYTES else {OMITTED: "too long"}
    return {**told, METHOD: stream.times.method.value}


class NewWords:
    """Words of a stream in the order in which their times become known, each once."""

    def __init__(self, stream: SpeechStream) -> None:
        self._times = stream.times
        self._told = 0

    def take(self) -> list[Timed]:
        """Return the words whose times have become known since the last call."""
        if self._times is None:
            return []
        words = self._times.words[self._told :]
        self._told += len(words)
        return words
