"""One context of the socket: its settings, and the task that sends the events of its sessions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from compat.inworld.errors import Exhausted, late_status
from compat.inworld.messages import ContextConfig
from compat.inworld.payload import Lines
from compat.inworld.timestamps import Span
from compat.wire import log_failure
from echo.errors import BadRequest, Overloaded
from echo.service import SpeechService
from echo.session import Flushed, PassageDone, PassageFailed, PassageStarted, SpeechSession
from echo.text import SpeakRules
from echo.text.buffer import MAX_BUFFERED
from echo.text.times import SpokenText

Send = Callable[[dict[str, object]], Awaitable[None]]
"""Sends one result of a context: the payload under its name, or a status."""

#: Changes of settings that may wait for their turn in one context.
MAX_WAITING_UPDATES = 100


@dataclass(frozen=True, slots=True)
class _Part:
    """A session, and the settings that its client has asked for when it began (None: those of ``create``)."""

    session: SpeechSession
    config: ContextConfig
    updated: bool


class Context:
    """A voice, a format and a text buffer on a socket.

    The methods return at once; the context's own task does the work, in order. They raise Exhausted, and do nothing,
    while too much text is waiting. Text that is sent after a change of settings belongs to a session of its own.
    ``closed`` is called before ``contextClosed`` is sent, so that the id is free again when the client receives it.
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
        #: Takes no more messages.
        self.closing = False
        self._service = service
        self._send = send
        self._closed = closed
        self._client = client
        self._session = self._open(config, header=True)
        self._parts: asyncio.Queue[_Part | None] = asyncio.Queue()
        self._parts.put_nowait(_Part(self._session, config, updated=False))
        self._task: asyncio.Task[None] | None = asyncio.create_task(self._run())
        self._task.add_done_callback(log_failure)

    @property
    def busy(self) -> bool:
        """Whether something is being spoken or waits to be spoken."""
        return self._session.busy or not self._parts.empty()

    def append(self, text: str) -> None:
        """Take text and speak what is due. Raises BadRequest, and takes nothing, if it is too long."""
        if len(text) > MAX_BUFFERED:
            raise BadRequest(f"text: {len(text)} characters; at most {MAX_BUFFERED} per message.", param="text")
        with _exhausted():
            self._session.feed(text)

    def flush(self) -> None:
        """Speak what is buffered; ``flushCompleted`` follows even if that is nothing."""
        with _exhausted():
            self._session.flush()

    def update(self, config: ContextConfig) -> None:
        """Speak what is buffered with the old settings, then change them."""
        if self._parts.qsize() >= MAX_WAITING_UPDATES:
            raise Exhausted(f"{MAX_WAITING_UPDATES} changes of settings are waiting. Send more later.")
        # livekit feeds a whole context to one WAV parser: a second header would be played as a click.
        session = self._open(config, header=config.audio_config != self.config.audio_config)
        self._session.end()
        self.config, self._session = config, session
        self._parts.put_nowait(_Part(session, config, updated=True))

    def close(self) -> None:
        """Speak what is buffered, then end."""
        self.closing = True
        self._session.end()
        self._parts.put_nowait(None)

    async def cancel(self) -> None:
        """Stop speaking, drop all text, and end without a message; return when the work has stopped."""
        # Let go of at once: the error of a cancelled task holds its frames, and they hold the context and its speech.
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))
        self._session.close()
        while not self._parts.empty():  # those that wait for their turn, of a task perhaps that had not begun
            if (part := self._parts.get_nowait()) is not None:
                part.session.close()

    def _open(self, config: ContextConfig, *, header: bool) -> SpeechSession:
        audio = config.audio_config.streamed(header=header)
        request = config.to_request("", audio, streaming=True, client=self._client)
        return self._service.session(request, speak_rules(config))

    # -- the context's task --------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while (part := await self._parts.get()) is not None:
                if part.updated:
                    await self._send({"contextUpdated": part.config.echoed()})
                await self._speak(part.session, part.config)
            self._closed()
            await self._send({"contextClosed": {}})
        finally:
            self._session.close()

    async def _speak(self, session: SpeechSession, config: ContextConfig) -> None:
        """Send the events of a session. The timestamps of each passage start at 0."""
        lines = Lines(config, "")
        failed = False
        try:
            async for event in session:
                match event:
                    case bytes():
                        for payload in lines.add(event):
                            await self._send({"audioChunk": payload})
                    case PassageStarted():
                        lines, failed = Lines(config, event.source.strip()), False
                    case PassageDone():
                        for payload in lines.end(_span(event), _times(event)):
                            await self._send({"audioChunk": payload})
                        if not event.flushed:
                            await self._send({"flushCompleted": {}})
                    case PassageFailed():
                        failed = event.flushed
                        await self._send({"status": late_status(event.error, "Inworld socket")})
                    case Flushed():
                        if not failed:
                            await self._send({"flushCompleted": {}})
                        failed = False
        finally:
            session.close()


@contextlib.contextmanager
def _exhausted() -> Iterator[None]:
    try:
        yield
    except Overloaded as error:
        raise Exhausted(error.message) from None


def _span(done: PassageDone) -> Span:
    """Return where the speech of a passage lies in its own audio."""
    length = done.end_s - done.start_s
    if done.speech_start_s is None or done.speech_end_s is None:
        return Span(0.0, length)
    return Span(done.speech_start_s - done.start_s, min(done.speech_end_s - done.start_s, length))


def _times(done: PassageDone) -> SpokenText | None:
    """Return the times of a passage's words in its own audio."""
    return None if done.times is None else done.times.placed(lambda second: second - done.start_s)


def speak_rules(config: ContextConfig) -> SpeakRules:
    """Return when a context's settings have text spoken; a threshold or delay of 0 means unset."""
    sentences = config.auto_mode is not False and config.auto_mode_strategy == "SENTENCE_BOUNDARY"
    return SpeakRules(
        pieces=config.auto_mode is True and not sentences,
        sentences_from=0 if sentences else None,
        words_from=(config.buffer_char_threshold or MAX_BUFFERED,),
        max_delay_s=config.max_buffer_delay_ms / 1000 if config.max_buffer_delay_ms else None,
    )
