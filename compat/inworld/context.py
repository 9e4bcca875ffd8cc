"""One context of the socket: its text buffer, its settings, and the task that speaks one flush after the other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from compat.inworld.buffering import MAX_BUFFERED, BufferRules, TextBuffer
from compat.inworld.errors import Exhausted, is_unspeakable, late_status
from compat.inworld.messages import ContextConfig
from compat.inworld.payload import payloads
from compat.inworld.schemas import AudioConfig
from echo.errors import BadRequest
from echo.service import SpeechService

log = logging.getLogger(__name__)

Send = Callable[[dict[str, object]], Awaitable[None]]
"""Sends one result of a context: the payload under its name, or a status."""

#: Text that may wait for its turn in one context, in characters: about an hour of speech.
MAX_WAITING_CHARS = 50_000
#: Flushes and changes of settings that may wait for their turn in one context.
MAX_WAITING_FLUSHES = 1_000


@dataclass(frozen=True, slots=True)
class _Flush:
    text: str
    config: ContextConfig


@dataclass(frozen=True, slots=True)
class _Updated:
    config: ContextConfig


@dataclass(frozen=True, slots=True)
class _Close:
    pass


class Context:
    """A voice, a format and a text buffer on a socket.

    The methods return at once; the context's own task does the work, in order. They raise Exhausted, and do nothing,
    while too much text is waiting. ``closed`` is called before ``contextClosed`` is sent, so that the id is free again
    when the client receives it.
    """

    def __init__(
        self,
        id: str,
        service: SpeechService,
        config: ContextConfig,
        send: Send,
        closed: Callable[[], None],
        client: str = "",
    ) -> None:
        self.id = id
        self.config = config
        #: Something is being spoken or waits to be spoken.
        self.busy = False
        #: Takes no more messages.
        self.closing = False
        self._service = service
        self._send = send
        self._closed = closed
        self._client = client
        self._buffer = TextBuffer(buffer_rules(config), markup=service.rules.text.strip_markup)
        self._timer: asyncio.TimerHandle | None = None
        self._waiting_chars = 0
        self._header_sent_for: AudioConfig | None = None
        self._work: asyncio.Queue[_Flush | _Updated | _Close] = asyncio.Queue()
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(_log_failure)

    def append(self, text: str) -> None:
        """Take text and speak what is due. Raises BadRequest, and takes nothing, if it is too long."""
        if len(text) > MAX_BUFFERED:
            raise BadRequest(f"text: {len(text)} characters; at most {MAX_BUFFERED} per message.", param="text")
        self._require_room(len(text))
        self._speak(self._buffer.append(text, self._now()))
        self._set_timer()

    def flush(self) -> None:
        """Speak what is buffered; ``flushCompleted`` follows even if that is nothing."""
        self._require_room(0)
        self._stop_timer()
        self._put(_Flush(self._buffer.flush(), self.config))

    def update(self, config: ContextConfig) -> None:
        """Speak what is buffered with the old settings, then change them."""
        self._require_room(0)
        self._stop_timer()
        self._speak(self._buffer.flush())
        self.config = config
        self._buffer.rules = buffer_rules(config)
        self._put(_Updated(config))

    def close(self) -> None:
        """Speak what is buffered, then end."""
        self.closing = True
        self._stop_timer()
        self._speak(self._buffer.flush())
        self._put(_Close())

    async def cancel(self) -> None:
        """Stop speaking, drop all text, and end without a message; return when the work has stopped."""
        self._stop_timer()
        self._task.cancel()
        await asyncio.wait((self._task,))

    def _require_room(self, chars: int) -> None:
        if self._waiting_chars + chars > MAX_WAITING_CHARS or self._work.qsize() >= MAX_WAITING_FLUSHES:
            raise Exhausted(f"{self._waiting_chars} characters are waiting to be spoken. Send more later.")

    def _speak(self, text: str) -> None:
        if text:
            self._put(_Flush(text, self.config))

    def _put(self, work: _Flush | _Updated | _Close) -> None:
        if isinstance(work, _Flush):
            self._waiting_chars += len(work.text)
        self.busy = True
        self._work.put_nowait(work)

    def _set_timer(self) -> None:
        self._stop_timer()
        if (due := self._buffer.deadline) is not None:
            delay = max(0.0, due - self._now())
            self._timer = asyncio.get_running_loop().call_later(delay, self._delay_over)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _delay_over(self) -> None:
        self._speak(self._buffer.flush())

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    # -- the context's task --------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            match await self._work.get():
                case _Flush(text, config):
                    await self._generate(text, config)
                    self._waiting_chars -= len(text)
                case _Updated(config):
                    await self._send({"contextUpdated": config.echoed()})
                case _Close():
                    self._closed()
                    await self._send({"contextClosed": {}})
                    return
            self.busy = not self._work.empty()

    async def _generate(self, text: str, config: ContextConfig) -> None:
        """Speak one flush. Its timestamps start at 0."""
        if text:
            # livekit feeds a whole context to one WAV parser: a second header would be played as a click.
            audio = config.audio_config.streamed(header=config.audio_config != self._header_sent_for)
            try:
                speech = config.to_request(text, audio, streaming=True, client=self._client)
                stream = await self._service.open(speech)
                self._header_sent_for = config.audio_config
                try:
                    async for payload in payloads(stream, config, text):
                        await self._send({"audioChunk": payload})
                finally:
                    stream.close()
            except Exception as error:
                if not is_unspeakable(error):
                    await self._send({"status": late_status(error, "Inworld socket")})
                    return
        await self._send({"flushCompleted": {}})


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("Inworld context failed", exc_info=error)


def buffer_rules(config: ContextConfig) -> BufferRules:
    """Return the buffering rules of a context's settings; a threshold or delay of 0 means unset."""
    sentences = config.auto_mode is not False and config.auto_mode_strategy == "SENTENCE_BOUNDARY"
    return BufferRules(
        threshold=config.buffer_char_threshold or MAX_BUFFERED,
        max_delay_s=config.max_buffer_delay_ms / 1000 if config.max_buffer_delay_ms else None,
        phrases=config.auto_mode is True and not sentences,
        sentences=sentences,
    )
