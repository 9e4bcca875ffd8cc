"""``WS /v1/speak``: text in, raw audio out. What comes before a ``Flush`` is a turn, spoken in one voice."""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.websockets import WebSocket

from compat.wire import close, decode, late_failure, log_failure, receive, send
from echo.errors import BadRequest, Overloaded
from echo.runtime import Runtime
from echo.session import PassageFailed, SpeechSession
from echo.types import AudioFormat, Encoding, SpeechRequest, VoiceRef
from routes.deps import RuntimeDep, client_of
from routes.errors import validated

router = APIRouter()

PATH = "/v1/speak"
#: Seconds without a message and without speech after which a connection is closed: pipecat sends no keep-alives.
IDLE_S = 600.0
#: Turns that may wait on a connection.
MAX_TURNS = 20
#: By ``encoding``: what it is, and Deepgram's default sample rate, in Hz.
_ENCODINGS = {"linear16": (Encoding.PCM, 24_000), "mulaw": (Encoding.MULAW, 8_000), "alaw": (Encoding.ALAW, 8_000)}


class _Query(BaseModel):
    encoding: Annotated[str, Field(pattern="^(linear16|mulaw|alaw)$")] = "linear16"
    sample_rate: Annotated[int, Field(ge=8_000, le=48_000)] | None = None
    speed: Annotated[float, Field(ge=0.25, le=4, allow_inf_nan=False)] = 1.0


@router.websocket(PATH)
async def speak(socket: WebSocket, runtime: RuntimeDep) -> None:
    """Check the query, then serve the connection."""
    query, voice = validated(_Query, dict(socket.query_params)), VoiceRef(name=socket.query_params.get("model"))
    encoding, rate = _ENCODINGS[query.encoding]
    audio = AudioFormat(encoding=encoding, sample_rate=query.sample_rate or rate)
    await runtime.service.resolve(voice, client_of(socket))
    request = SpeechRequest(text="", voice=voice, format=audio, speed=query.speed, client=client_of(socket))
    connection = Connection(socket, runtime, request)
    await socket.accept()
    await connection.serve()


class Connection:
    """One connection. It reads messages and never waits for speech; a task of its own speaks turn after turn."""

    def __init__(self, socket: WebSocket, runtime: Runtime, request: SpeechRequest, idle_s: float = IDLE_S) -> None:
        self._socket = socket
        self._service = runtime.service
        self._request = request
        self._idle_s = idle_s
        #: The last one is being written.
        self._turns: deque[SpeechSession] = deque()
        self._flushes = 0
        self._speaker: asyncio.Task[None] | None = None

    async def serve(self) -> None:
        """Serve until the client leaves or has been idle for too long, then stop all work."""
        name = self._request.voice.name
        await send(self._socket, {"type": "Metadata", "request_id": uuid.uuid4().hex, "model_name": name})
        try:
            self._begin()
            while (frame := await receive(self._socket, self._idle_s, lambda: self._turns[0].busy)) is not None:
                await self._handle(frame)
        finally:
            await self._stop()

    async def _handle(self, frame: str | bytes) -> None:
        try:
            message: Any = decode(frame)
            match message.get("type") if isinstance(message, dict) else None:
                case "Speak" if isinstance(message.get("text"), str):
                    self._turns[-1].feed(message["text"])
                case "Flush" if len(self._turns) > MAX_TURNS:
                    raise Overloaded(f"{MAX_TURNS} turns are waiting to be spoken. Flush later.")
                case "Flush":
                    self._turns[-1].end()
                    self._turns.append(self._service.session(self._request))
                case "Clear":
                    await self._stop()
                    await send(self._socket, {"type": "Cleared", "sequence_id": self._flushes})
                    self._begin()
                case "Close":
                    self._turns[-1].end()
                case _:
                    raise BadRequest("The type must be Speak, with a text, Flush, Clear or Close.", param="type")
        except Exception as error:
            await self._warn(error)

    def _begin(self) -> None:
        self._turns.append(self._service.session(self._request))
        self._speaker = asyncio.create_task(self._speak())
        self._speaker.add_done_callback(log_failure)

    async def _speak(self) -> None:
        """Speak turns until ``Close`` has ended the last one; it stays in the list for messages that still come."""
        while True:
            async for event in self._turns[0]:
                if isinstance(event, bytes):
                    await send(self._socket, event)
                elif isinstance(event, PassageFailed):
                    await self._warn(event.error)
            if len(self._turns) == 1:
                return await close(self._socket, 1000)
            self._turns.popleft()
            await send(self._socket, {"type": "Flushed", "sequence_id": self._flushes})
            self._flushes += 1

    async def _warn(self, error: Exception) -> None:
        failure = late_failure(error, "Deepgram socket").error
        await send(self._socket, {"type": "Warning", "description": failure.message, "code": failure.code})

    async def _stop(self) -> None:
        for turn in self._turns:
            turn.close()
        self._turns.clear()
        # Let go of at once: the error of a cancelled task holds its frames, and they hold the connection.
        task, self._speaker = self._speaker, None
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))
