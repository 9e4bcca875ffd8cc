"""One turn of a conversation: a session, and the task that sends its audio, its times and its end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from compat.elevenlabs.alignment import Timeline
from compat.elevenlabs.answers import Answer, Answers
from compat.wire import log_failure
from echo.session import PassageDone, PassageFailed, SpeechSession

Send = Callable[[Answer], Awaitable[None]]
"""Sends a message to the client."""
Ended = Callable[["Turn", Exception | None], Awaitable[None]]
"""Called when a turn has ended by itself; with the failure, if that ended it."""


#: Marks that stand within a word, or in front of one.
_WITHIN_WORDS = "'\u2019-\u2010\u2011_/@#&+=$\u20ac\u00a3([{\u201c\u00ab"


def _may_go_on(last: str) -> bool:
    """Whether a text that ends with this character may end within a word."""
    return last.isalnum() or last in _WITHIN_WORDS


class Turn:
    """A text that is being written and spoken: a context of the multi-context sockets, or all of the single one.

    The methods return at once; the turn's own task sends. They raise Overloaded while too much text is waiting.
    ``every_message`` speaks each text as it comes, but not one that may end within a word. ``after`` is a turn that
    has to end first.
    """

    def __init__(
        self,
        session: SpeechSession,
        answers: Answers,
        timeline: Timeline,
        send: Send,
        ended: Ended,
        *,
        every_message: bool = False,
        after: Turn | None = None,
    ) -> None:
        self.answers = answers
        #: The client has said that no more text will come.
        self.closing = False
        self._session = session
        self._timeline = timeline
        self._send = send
        self._ended = ended
        self._every_message = every_message
        self._blank = True  # the text so far ends with a blank
        self._unflushed = False  # the last text came without a flush
        self._task: asyncio.Task[None] | None = asyncio.create_task(self._run(after._task if after else None))
        self._task.add_done_callback(log_failure)

    @property
    def busy(self) -> bool:
        """Whether something is being spoken, or the end is about to be sent."""
        return self.closing or self._session.busy

    def when_done(self, notify: Callable[[Turn], None]) -> None:
        """Have ``notify`` called when the turn's task has ended, its last message sent."""
        assert self._task is not None
        self._task.add_done_callback(lambda _: notify(self))

    @property
    def interrupted_by_close(self) -> bool:
        """Whether closing it now means to stop at once.

        Clients close a turn to end it and to interrupt it. It is an interruption if they close it a second time, or
        if their last text came without a flush, since only text that was flushed is sure to be spoken.
        """
        return self.closing or self._unflushed

    def add(self, text: str) -> None:
        """Take more text. A lone blank between two others keeps the connection alive and is not text."""
        if not text or (text == " " and self._blank):
            return
        self._session.feed(text)
        self._blank = text[-1:].isspace()
        if not text.isspace():
            self._unflushed = True
            if self._every_message and not _may_go_on(text[-1]):
                self._session.flush()

    def trigger(self) -> None:
        """Speak what can be spoken now."""
        self._session.trigger()

    def flush(self) -> None:
        """Speak all text so far."""
        self._session.flush()
        self._unflushed = False

    def end(self) -> None:
        """Speak all text so far, then end."""
        self.closing = True
        self._session.end()

    async def cancel(self) -> None:
        """Stop speaking, drop all text, and end without a message; return when the work has stopped."""
        # Let go of at once: the error of a cancelled task holds its frames, and they hold the turn and its speech.
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))
            self._session.close()  # a task that had not begun yet does not

    async def _run(self, after: asyncio.Task[None] | None) -> None:
        failure: Exception | None = None
        try:
            if after is not None:
                await asyncio.wait((after,))
            try:
                failure = await self._speak()
            except Exception as error:
                failure = error
            await self._ended(self, failure)
        finally:
            self._session.close()
            del after, failure  # the traceback of a failure holds this frame

    async def _speak(self) -> Exception | None:
        """Send the events of the session; return the failure that ended it early."""
        async for event in self._session:
            match event:
                case bytes():
                    for message in self.answers.audio(event):
                        await self._send(message)
                case PassageDone():
                    await self._send(self.answers.times(self._timeline.passage(event)))
                case PassageFailed():
                    return event.error
        return None
