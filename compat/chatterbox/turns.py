"""``WS /ws/synthesize-stream``: text in pieces in, frames of mu-law out, turn after turn on one connection."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable

from starlette.websockets import WebSocket

from compat.chatterbox.audio import milliseconds
from compat.chatterbox.errors import UnknownVoice, socket_text
from compat.chatterbox.schemas import ADAPTIVE, ENGINE, MULAW, MessageType, TurnMessage, preset_name
from compat.wire import decode, receive, send
from echo.audio.frames import TelephoneFrames
from echo.errors import BadRequest, Overloaded, VoiceNotFound
from echo.runtime import Runtime
from echo.service import SpeechService
from echo.session import Flushed, PassageDone, PassageFailed, PassageStarted
from echo.text import SpeakRules
from echo.types import SpeechRequest, VoiceRef
from routes.deps import client_of

#: When the original server speaks before the text has ended; where it cuts is the text package's.
RULES = SpeakRules(sentences_from=15, clauses_from=25, eager=True)
#: Turns that may wait on one connection while another is being spoken.
MAX_TURNS = 5

Send = Callable[[dict[str, object]], Awaitable[None]]


class TurnSocket:
    """One connection. It reads messages and never waits for speech; the turns' tasks do that."""

    def __init__(self, socket: WebSocket, runtime: Runtime, idle_s: float) -> None:
        self._socket = socket
        self._runtime = runtime
        self._idle_s = idle_s
        #: In the order in which they are spoken; the last one takes text until it has been ended.
        self._turns: list[Turn] = []

    async def serve(self) -> None:
        """Serve until the client disconnects or has been idle for too long, then stop all work."""
        try:
            while (frame := await receive(self._socket, self._idle_s, self._busy)) is not None:
                await self._handle(frame)
        finally:
            await self._cancel()

    def _busy(self) -> bool:
        return any(turn.busy for turn in self._turns)

    async def _handle(self, frame: str | bytes) -> None:
        """Do what a message asks for. An error is answered; the socket stays open."""
        try:
            message = TurnMessage.parse(decode(frame))
            match message.type:
                case MessageType.INIT:
                    await self._begin(message)
                case MessageType.TEXT:
                    self._open_turn().feed(message.content or "")
                case MessageType.END:
                    self._open_turn().end()
                case MessageType.CANCEL:
                    await self._cancel()
                    await self._send({"type": "cancelled"})
                case unknown:
                    known = ", ".join(MessageType)
                    await self._send(
                        {"type": "error", "error": f"Unknown message type: {unknown[:64]!r}; known ones are {known}"}
                    )
        except Exception as error:
            await self._send({"error": socket_text(error)})

    def _open_turn(self) -> Turn:
        """Return the turn that takes text; raises BadRequest."""
        if not self._turns or self._turns[-1].ended:
            raise BadRequest("Session not initialized")
        return self._turns[-1]

    async def _begin(self, message: TurnMessage) -> None:
        """Begin a turn; it is spoken after those that have been ended. One that has not is dropped."""
        voice_id = message.checked_voice_id()
        if self._turns and not self._turns[-1].ended:
            await self._turns.pop().cancel()
        if len(self._turns) > MAX_TURNS:
            raise Overloaded(f"{MAX_TURNS} turns are waiting to be spoken. Send more later.")
        service = self._runtime.services.of(ENGINE)
        preset = preset_name(service.presets, message.preset, ADAPTIVE)
        request = SpeechRequest(
            text="",
            voice=VoiceRef(name=voice_id),
            format=MULAW,
            preset=preset,
            seed=message.seed,
            client=client_of(self._socket),
        )
        before = self._turns[-1].over if self._turns else None
        self._turns.append(Turn(service, request, voice_id, before, self._send, self._forget))

    def _forget(self, turn: Turn) -> None:
        if turn in self._turns:
            self._turns.remove(turn)

    async def _cancel(self) -> None:
        turns, self._turns = self._turns, []
        await asyncio.gather(*(turn.cancel() for turn in turns))

    async def _send(self, message: dict[str, object]) -> None:
        await send(self._socket, message)


class Turn:
    """What is spoken from an ``init`` to its ``complete``.

    ``before`` is set once the turn before it is over. ``finished`` is called when this one has ended by itself, before
    its last message is sent, so that its place is free when the client receives that.
    """

    def __init__(
        self,
        service: SpeechService,
        request: SpeechRequest,
        voice_id: str,
        before: asyncio.Event | None,
        send: Send,
        finished: Callable[[Turn], None],
    ) -> None:
        self.over = asyncio.Event()
        #: Takes no more text.
        self.ended = False
        self._service = service
        self._request = request
        self._voice_id = voice_id
        self._before = before
        self._send = send
        self._finished = finished
        self._session = service.session(request, RULES)
        self._started: float | None = None
        self._count = 0
        self._task: asyncio.Task[None] | None = asyncio.create_task(self._run())

    @property
    def busy(self) -> bool:
        """Whether something is being spoken or waits to be spoken."""
        return self._session.busy or self.ended

    def feed(self, text: str) -> None:
        """Take more text; raises Overloaded, and takes nothing, while too much is waiting."""
        self._session.feed(text)
        self._started = self._started or time.monotonic()

    def end(self) -> None:
        """Speak what is buffered, then end."""
        self._session.flush()  # which marks what is spoken because of the end, and not before it
        self._session.end()
        self._started = self._started or time.monotonic()
        self.ended = True

    async def cancel(self) -> None:
        """Stop speaking, drop all text, and end without a message; return when the work has stopped."""
        # Let go of at once: the error of a cancelled task holds its frames, and they hold the turn and its speech.
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))
            self._session.close()  # a task that had not begun yet does not
            self.over.set()

    async def _run(self) -> None:
        last: dict[str, object]
        try:
            last = await self._refusal() or await self._speak()
        except Exception as error:
            last = {"type": "error", "error": socket_text(error)}
        finally:
            self._session.close()
            self.over.set()
        self._finished(self)
        await self._send(last)

    async def _refusal(self) -> dict[str, object] | None:
        """Answer ``init``; return the message that ends the turn if it cannot be spoken."""
        try:
            await self._service.resolve(self._request.voice, self._request.client)
        except VoiceNotFound:
            return {"error": socket_text(UnknownVoice(self._voice_id))}
        except Exception as error:
            return {"error": socket_text(error)}
        ready = {"type": "ready", "voice_id": self._voice_id, "preset": self._request.preset}
        await self._send({**ready, "message": "Send text, then end."})
        return None

    async def _speak(self) -> dict[str, object]:
        """Send everything but the last message; return that."""
        if self._before is not None:
            await self._before.wait()
        frames, begun = TelephoneFrames(), 0
        async for event in self._session:
            match event:
                case bytes():
                    await self._send_frames(frames.push(event))
                case PassageStarted():
                    begun = self._count
                case PassageDone(flushed=False):
                    await self._send({"type": "sentence_complete", "chunks_in_sentence": self._count - begun})
                case PassageFailed(error=error):
                    await self._send({"type": "error", "error": socket_text(error)})
                case PassageDone() | Flushed():
                    pass
        await self._send_frames(frames.finish())
        took = time.monotonic() - self._started if self._started is not None else 0.0
        return {"type": "complete", "total_chunks": self._count, "total_ms": milliseconds(took)}

    async def _send_frames(self, frames: list[bytes]) -> None:
        for frame in frames:
            audio = base64.b64encode(frame).decode()
            await self._send(
                {"type": "audio", "audio": audio, "chunk_index": self._count, "format": "mulaw", "sample_rate": 8000}
            )
            self._count += 1
