"""A call: turns of speech into its line, an interruption at any moment, and an end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from dataclasses import replace

from starlette.websockets import WebSocket

from compat.twilio import messages
from compat.twilio.playback import Playback, Stalled
from compat.twilio.turn import Turn
from compat.wire import close, late_failure, send
from echo.audio.encode import TELEPHONE_RATE
from echo.audio.frames import TelephoneFrames
from echo.errors import BadRequest, Overloaded
from echo.service import SpeechService
from echo.session import Flushed, PassageDone, PassageFailed, PassageStarted
from echo.text import EARLY, SpeakRules
from echo.types import AudioFormat, Encoding, SpeechRequest

log = logging.getLogger(__name__)

#: Turns that may wait in one call.
MAX_TURNS = 10
#: Frames of 20 ms that are sent together at most: fewer messages, and still heard at once.
_FRAMES = 5
#: Seconds of audio between two marks at most, besides one per passage, so that an interruption can be placed.
_MARK_EVERY_S = 1.0

_FORMAT = AudioFormat(encoding=Encoding.MULAW, sample_rate=TELEPHONE_RATE)


class Call:
    """The speech into one line. Audio is sent as soon as it is made, up to the lead of ``playback``.

    ``say`` returns at once; a task sends the turns in their order, and ends when there is nothing to say.
    """

    def __init__(
        self,
        socket: WebSocket,
        service: SpeechService,
        stream_sid: str,
        request: SpeechRequest,
        *,
        call_sid: str = "",
        playback: Playback | None = None,
    ) -> None:
        self.stream_sid = stream_sid
        #: What an agent may call it: a call has one stream of this kind.
        self.sids = tuple(filter(None, (stream_sid, call_sid)))
        self.playback = playback or Playback()
        #: Sockets on which agents send text; they are closed with the call.
        self.agents: set[WebSocket] = set()
        self._socket = socket
        self._service = service
        self._request = replace(request, format=_FORMAT)
        self._turns: deque[Turn] = deque()
        #: Turns whose audio has been sent, but perhaps not heard.
        self._sent: deque[Turn] = deque()
        self._count = 0
        self._closing = False
        self._clearing = False
        self._speaking: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None

    def say(self, text: str, *, end: bool) -> int:
        """Take text for the open turn, or for a new one; return the number of the turn.

        Raises BadRequest where there is nothing to say, or the call is being closed; Overloaded, and takes nothing,
        while too much is waiting.
        """
        if self._closing:
            raise BadRequest("The call is being closed.", param="text")
        turn = self._turns[-1] if self._turns and not self._turns[-1].ended else None
        if turn is None:
            if not text:
                raise BadRequest("text: there is nothing to say.", param="text")
            turn = self._begin(whole=end)
        if text:
            turn.session.feed(text)
        if end:
            turn.ended = True
            turn.session.end()
        return turn.number

    def end_turn(self) -> None:
        """Say what is left of the open turn, if there is one."""
        if self._turns and not self._turns[-1].ended:
            self._turns[-1].ended = True
            self._turns[-1].session.end()

    async def clear(self) -> str:
        """Stop speaking, drop what has not been sent, have the line drop what it has not played; in this order.

        Returns the words of what was interrupted that had been heard, by the marks that had come back.
        """
        self._clearing = True  # what is said meanwhile is begun when the line has been told
        try:
            played_s = self.playback.played_s
            turns = [*(turn for turn in self._sent if turn.ends_s > played_s), *self._turns]
            self._sent.clear()
            self._turns.clear()
            speaking, self._speaking = self._speaking, None
            await _ended(speaking)
            for turn in turns:
                turn.session.close()
            self.playback.clear()
            await self._send(messages.clear(self.stream_sid))
        finally:
            self._clearing = False
        self._start()
        return " ".join(filter(None, (turn.heard(played_s) for turn in turns)))

    async def close(self, *, now: bool) -> None:
        """Close the line, so that the call goes on with what follows in its TwiML: ``now``, or when all is heard."""
        self.end_turn()
        self._closing = True
        if now:
            await self.clear()
            await close(self._socket, 1000)
        elif self._ending is None:
            self._ending = asyncio.create_task(self._close_when_heard())

    async def stop(self) -> None:
        """End all work: the line is gone."""
        self._closing = True
        tasks = (self._speaking, self._ending)
        self._speaking = self._ending = None
        for task in tasks:
            await _ended(task)
        for turn in self._turns:
            turn.session.close()
        self._turns.clear()
        for agent in list(self.agents):
            await close(agent, 1000, "the call has ended")

    def _begin(self, *, whole: bool) -> Turn:
        if len(self._turns) >= MAX_TURNS:
            raise Overloaded(f"{MAX_TURNS} turns are waiting to be spoken. Send more later.", retry_after_s=1.0)
        self._count += 1
        # What has come whole is spoken as one, as a request is; pieces are, from their first clause on.
        turn = Turn(self._count, self._service.session(self._request, SpeakRules() if whole else EARLY))
        self._turns.append(turn)
        self._start()
        return turn

    def _start(self) -> None:
        """Begin to speak, if there is something to say."""
        if self._turns and not self._clearing and (self._speaking is None or self._speaking.done()):
            self._speaking = asyncio.create_task(self._speak_all())

    async def _speak_all(self) -> None:
        try:
            while self._turns:
                turn = self._turns[0]
                await self._speak(turn)
                self._turns.remove(turn)
                self._sent.append(turn)
        except Stalled:
            log.warning("call %s is closed: the line plays nothing", self.stream_sid)
            await close(self._socket, 1008, "no marks")
        except Exception as error:
            late_failure(error, "Twilio call")
            await close(self._socket, 1011)

    async def _speak(self, turn: Turn) -> None:
        while self._sent and self._sent[0].ends_s <= self.playback.played_s:
            self._sent.popleft()
        turn.begins_s = self.playback.sent_s
        frames = TelephoneFrames(_FRAMES)
        try:
            async for event in turn.session:
                match event:
                    case bytes():
                        await self._play(frames.push(event), turn)
                    case PassageStarted():
                        turn.begin(event)
                    case PassageDone():
                        turn.finish(event)
                        await self._mark(turn)
                    case PassageFailed():
                        failure = late_failure(event.error, "Twilio call")
                        log.warning("call %s: a passage was not spoken: %s", self.stream_sid, failure.error.message)
                    case Flushed():
                        pass
            await self._play(frames.finish(), turn)
            await self._mark(turn)
        finally:
            turn.session.close()
        turn.ends_s = self.playback.sent_s

    async def _play(self, pieces: list[bytes], turn: Turn) -> None:
        for piece in pieces:
            await self.playback.room()
            await self._send(messages.media(self.stream_sid, piece))
            self.playback.sent(len(piece) / TELEPHONE_RATE)
            if self.playback.unmarked_s >= _MARK_EVERY_S:
                await self._mark(turn)

    async def _mark(self, turn: Turn) -> None:
        if self.playback.unmarked_s > 0:
            await self._send(messages.mark(self.stream_sid, self.playback.mark(turn.number)))

    async def _close_when_heard(self) -> None:
        if self._speaking is not None:
            await asyncio.wait((self._speaking,))
        with contextlib.suppress(Stalled):
            await self.playback.finished()
        await close(self._socket, 1000)

    async def _send(self, message: dict[str, object]) -> None:
        await send(self._socket, message)


async def _ended(task: asyncio.Task[None] | None) -> None:
    """Cancel a task and wait for its end."""
    if task is not None:
        task.cancel()
        await asyncio.wait((task,))
