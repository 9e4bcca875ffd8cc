"""One utterance of a connection: its text goes into a session, whose events become the client's messages."""

from __future__ import annotations

import asyncio
import base64
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from compat.omni.messages import Terms
from compat.wire import late_failure
from echo.errors import EchoError
from echo.limits import RequestLimits
from echo.session import PassageDone, PassageFailed, PassageStarted
from echo.text.times import SpokenText

Send = Callable[[Mapping[str, object] | bytes], Awaitable[None]]
"""Sends one message: JSON, or a binary frame."""

#: Text is given to the session in pieces of so many characters, which take about a millisecond each, and not before
#: fewer than so many wait there.
_PIECE, _AHEAD = 1_000, 2_000


@dataclass(slots=True)
class _Sentence:
    """A passage that is being spoken, as the client sees it."""

    index: int
    text: str
    #: Bytes of audio that have been sent.
    sent: int = 0
    chunks: int = 0
    #: Audio that waits until the file is complete, and its size.
    file: list[bytes] = field(default_factory=list)
    size: int = 0


class Utterance:
    """What is said between two ``session.done``. All methods but ``speak`` are called by who reads the socket."""

    def __init__(self, index: int, session_id: str, terms: Terms) -> None:
        self.index = index
        self.terms = terms
        self._session_id = session_id
        self._session = terms.service.session(terms.request, terms.rules, files=not terms.stream)
        self._limits: RequestLimits = terms.service.rules.limits
        self._text: deque[str] = deque()  # that the session has not been given yet
        self._held = 0  # characters of it
        self._sentences = 0
        self._ended = asyncio.Event()
        self._closed = False
        self._cancelled = False

    @property
    def busy(self) -> bool:
        """Whether something is being spoken, sent, or waits for it."""
        return self._ended.is_set() or self._session.busy

    @property
    def waiting_chars(self) -> int:
        """Characters that have not been spoken yet."""
        return self._session.waiting_chars + self._held

    def feed(self, text: str) -> None:
        """Take text, for which there must be room; nothing once it has been stopped. Raises Overloaded."""
        if self._closed:
            return
        self._session.count(text)
        self._text.extend(text[start : start + _PIECE] for start in range(0, len(text), _PIECE))
        self._held += len(text)
        self._hand_on()

    def end(self) -> None:
        """Speak the rest of the text; no more comes."""
        self._ended.set()
        self._hand_on()

    def cancel(self) -> None:
        """Stop speaking and drop all text; what has been begun is still reported as ended."""
        self._cancelled = True
        self._ended.set()
        self.close()

    def close(self) -> None:
        """Stop speaking and drop all text."""
        self._closed = True
        self._text.clear()
        self._held = 0
        self._session.close()

    def _hand_on(self) -> None:
        while self._text and (self.terms.rules.whole or self._session.waiting_chars < _AHEAD):
            self._held -= len(self._text[0])
            self._session.feed(self._text.popleft(), counted=True)
        if self._ended.is_set() and not self._text:
            self._session.end()

    async def speak(self, send: Send) -> None:
        """Send the audio of all sentences, and that the utterance is done, once its text has ended."""
        sentence: _Sentence | None = None
        try:
            async for event in self._session:
                match event:
                    case PassageStarted():
                        sentence = await self._start(event, send)
                    case bytes() if sentence is not None:  # behind the last sentence nothing but silence may follow
                        await self._take(event, sentence, send)
                    case PassageDone() if sentence is not None:
                        finished, sentence = sentence, None
                        await self._finish(event, finished, send)
                        self._hand_on()
                    case PassageFailed() if sentence is not None:
                        failed, sentence = sentence, None
                        await self._fail(event.error, failed, send)
                        self._hand_on()
        except EchoError as error:  # a file has become too large
            if sentence is not None:
                failed, sentence = sentence, None
                await self._fail(error, failed, send)
        finally:
            self.close()
        if sentence is not None:
            await send(self._done(sentence, cancelled=True))
        await self._ended.wait()
        await send(
            {
                "type": "session.done",
                "session_id": self._session_id,
                "utterance_index": self.index,
                "total_sentences": self._sentences,
                **({"cancelled": True} if self._cancelled else {}),
            }
        )

    async def _start(self, event: PassageStarted, send: Send) -> _Sentence:
        sentence = _Sentence(self._sentences, event.source.strip())
        self._sentences += 1
        await send(
            {
                "type": "audio.start",
                **self._names(sentence),
                "sentence_text": sentence.text,
                "format": self.terms.encoding,
                "sample_rate": self._session.output.sample_rate,
                "channels": 1,
            }
        )
        return sentence

    async def _take(self, audio: bytes, sentence: _Sentence, send: Send) -> None:
        if not self.terms.stream:
            sentence.size += len(audio)
            self._limits.check_size(sentence.size)
            sentence.file.append(audio)
            return
        start, sentence.sent = sentence.sent, sentence.sent + len(audio)
        if self.terms.words:
            await send(self._chunk(sentence, start, audio, None))
        else:
            await send(audio)

    async def _finish(self, event: PassageDone, sentence: _Sentence, send: Send) -> None:
        if not self.terms.stream:
            file = self._session.whole(b"".join(sentence.file))
            sentence.sent = len(file)
            await send(file)
        elif self.terms.words:
            await send(self._chunk(sentence, sentence.sent, b"", _words(event)))
        await send(self._done(sentence))

    async def _fail(self, error: EchoError, sentence: _Sentence, send: Send) -> None:
        partial = sentence.sent > 0
        await send(
            {
                **error_message(error),
                **self._names(sentence),
                "partial_audio": partial,
                **({"action": "discard"} if partial else {}),
            }
        )
        await send(self._done(sentence, error=True))

    def _names(self, sentence: _Sentence) -> dict[str, object]:
        return {
            "id": f"{self._session_id}-{self.index}-{sentence.index}",
            "utterance_index": self.index,
            "sentence_index": sentence.index,
        }

    def _done(self, sentence: _Sentence, *, error: bool = False, cancelled: bool = False) -> dict[str, object]:
        done = {"type": "audio.done", **self._names(sentence), "total_bytes": sentence.sent, "error": error}
        return {**done, "cancelled": True} if cancelled else done

    def _chunk(self, sentence: _Sentence, start: int, audio: bytes, words: SpokenText | None) -> dict[str, object]:
        rate = self._session.output.sample_rate
        number, sentence.chunks = sentence.chunks, sentence.chunks + 1
        return {
            "type": "audio.chunk",
            **self._names(sentence),
            "chunk_id": number,
            "chunk_start_ms": _milliseconds(start, rate),
            "chunk_end_ms": _milliseconds(start + len(audio), rate),
            "sample_rate": rate,
            "channels": 1,
            "audio_b64": base64.b64encode(audio).decode(),
            "timestamps": None if words is None else _milliseconds_of(words),
            **({} if words is None else {"timestamps_method": words.method.value}),
        }


def error_message(error: Exception) -> dict[str, Any]:
    """Return the message about a failure, of which the log has the details."""
    failure = late_failure(error, "speech socket").error
    message: dict[str, Any] = {"type": "error", "message": failure.message, "code": failure.code}
    return message if failure.param is None else {**message, "param": failure.param}


def _milliseconds(count: int, rate: int) -> int:
    """Return how long ``count`` bytes of 16-bit audio play."""
    return count * 500 // rate


def _words(done: PassageDone) -> SpokenText:
    """Return when the words are spoken, from the beginning of the sentence; none where it has no sound."""
    if done.speech_start_s is None or done.speech_end_s is None:
        return SpokenText(text="", start_s=0.0, end_s=0.0)
    return done.spoken().stripped().placed(lambda second: second - done.start_s)


def _milliseconds_of(spoken: SpokenText) -> list[dict[str, object]]:
    return [
        {"word": word.text, "start_ms": round(word.start_s * 1000), "end_ms": round(word.end_s * 1000)}
        for word in spoken.words()
    ]
