"""``WS /v1/audio/speech/stream``: text in while it is written, audio out, utterance after utterance."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from starlette.websockets import WebSocket

from compat.omni.messages import Terms, parse_message, settle
from compat.omni.utterance import Utterance, error_message
from compat.wire import close, receive, send
from echo.errors import BadRequest, EngineFailed, Overloaded, TimedOut
from echo.runtime import Runtime
from echo.session import MAX_WAITING_CHARS
from routes.deps import RuntimeDep, client_of

log = logging.getLogger(__name__)

PATH = "/v1/audio/speech/stream"
#: Largest message, in bytes: a ``session.config`` with a recording (vLLM-Omni's limit).
MAX_MESSAGE = 4 * 2**20
#: Utterances that may wait for their turn on a connection (the number of messages that vLLM-Omni lets wait).
MAX_WAITING_UTTERANCES = 16
#: Close codes of RFC 6455, 7.4.1.
_NORMAL, _POLICY, _FAILED = 1000, 1008, 1011
_TYPES = ("session.config", "input.text", "input.done", "input.cancel", "session.close")


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Seconds to wait for ``session.config`` (the engines' limit), and for a message while nothing is spoken.

    The engines wait for 30 s between messages; somebody who talks with an agent may think for longer.
    """

    config_s: float = 10.0
    idle_s: float = 300.0


def socket_router(patience: Patience) -> APIRouter:
    """Return the route of the socket."""
    router = APIRouter()

    @router.websocket(PATH)
    async def stream_speech(socket: WebSocket, runtime: RuntimeDep) -> None:
        await socket.accept()
        await Connection(socket, runtime, patience).serve()

    return router


class Connection:
    """One connection. It reads messages and never waits for speech; a task of its own speaks.

    Utterances are spoken one after another. The next may be written meanwhile, and the terms be changed for it.
    """

    def __init__(self, socket: WebSocket, runtime: Runtime, patience: Patience) -> None:
        self._socket = socket
        self._runtime = runtime
        self._patience = patience
        self._id = uuid.uuid4().hex
        self._terms: Terms | None = None
        self._writing: Utterance | None = None
        #: Begun and not done, in order; the last may still be being written.
        self._utterances: deque[Utterance] = deque()
        self._count = 0
        self._turns: asyncio.Queue[Utterance | Mapping[str, object]] = asyncio.Queue()
        self._speaker: asyncio.Task[None] | None = None

    async def serve(self) -> None:
        """Serve until the client leaves, closes, or has been idle for too long; then stop all work."""
        self._speaker = asyncio.create_task(self._speak())
        try:
            while (frame := await self._receive()) is not None and await self._handle(frame):
                pass
        finally:
            await self._stop()

    async def _receive(self) -> str | bytes | None:
        wait_s = self._patience.config_s if self._terms is None else self._patience.idle_s

        async def let_go() -> None:
            expected = "session.config" if self._terms is None else "message"
            await self._send(error_message(TimedOut(f"No {expected} has come for {wait_s:g} s.")))
            await close(self._socket, _POLICY if self._terms is None else _NORMAL, "idle")

        return await receive(self._socket, wait_s, lambda: any(each.busy for each in self._utterances), let_go)

    async def _handle(self, frame: str | bytes) -> bool:
        """Do what a message asks for; tell whether the connection goes on. An error is answered."""
        try:
            message = await parse_message(frame)
            if self._terms is None and message["type"] not in ("session.config", "session.close"):
                raise BadRequest("type: the first message must be a session.config.", param="type")
            match message["type"]:
                case "session.config":
                    await self._configure(message)
                case "input.text":
                    self._append(message.get("text"))
                case "input.done":
                    self._end()
                case "input.cancel":
                    self._cancel()
                case "session.close":
                    await close(self._socket, _NORMAL)
                    return False
                case _:
                    raise BadRequest(f"type: must be one of {', '.join(_TYPES)}.", param="type")
        except Exception as error:
            await self._send(error_message(error))
            if self._terms is None:
                await close(self._socket, _POLICY)
                return False
        return True

    async def _configure(self, message: dict[str, Any]) -> None:
        if self._writing is not None:
            raise BadRequest("session.config: an utterance is being written. Send input.done first.", param="type")
        terms = await settle(message, self._runtime, client_of(self._socket))
        self._terms = terms
        # In its turn, so that it does not come between the audio of an earlier utterance.
        self._turns.put_nowait(
            {
                "type": "session.configured",
                "session_id": self._id,
                "response_format": terms.encoding,
                "stream_audio": terms.stream,
                "split_granularity": terms.granularity,
            }
        )

    def _append(self, text: object) -> None:
        if not isinstance(text, str):
            raise BadRequest("text: a string is required.", param="text", code="invalid_type")
        if not text:
            return  # a keep-alive
        waiting = sum(each.waiting_chars for each in self._utterances)
        if waiting + len(text) > MAX_WAITING_CHARS:
            raise Overloaded(
                f"text: {waiting} characters are waiting to be spoken, {MAX_WAITING_CHARS} are allowed. Send more "
                "later.",
                retry_after_s=1.0,
            )
        (self._writing or self._begin()).feed(text)

    def _begin(self) -> Utterance:
        if len(self._utterances) >= MAX_WAITING_UTTERANCES:
            raise Overloaded(
                f"text: {MAX_WAITING_UTTERANCES} utterances are waiting to be spoken. Send more later.",
                retry_after_s=1.0,
            )
        assert self._terms is not None
        self._writing = utterance = Utterance(self._count, self._id, self._terms)
        self._count += 1
        self._utterances.append(utterance)
        self._turns.put_nowait(utterance)
        return utterance

    def _end(self) -> None:
        (self._writing or self._begin()).end()
        self._writing = None

    def _cancel(self) -> None:
        for utterance in self._utterances:
            utterance.cancel()
        self._writing = None

    # -- the speaker's task --------------------------------------------------------------------------------------

    async def _speak(self) -> None:
        """Send what is due, in order."""
        try:
            while True:
                turn = await self._turns.get()
                if not isinstance(turn, Utterance):
                    await self._send(turn)
                    continue
                await turn.speak(self._send)
                self._utterances.popleft()
                if turn.terms.closes:
                    await close(self._socket, _NORMAL)
                    return
        except Exception:
            log.exception("the speech socket failed")
            await self._send(error_message(EngineFailed("Generation failed.")))
            await close(self._socket, _FAILED)

    async def _stop(self) -> None:
        for utterance in self._utterances:
            utterance.close()
        # Let go of at once: the error of a cancelled task holds its frames, and they hold all of the connection.
        task, self._speaker = self._speaker, None
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))

    async def _send(self, message: Mapping[str, object] | bytes) -> None:
        await send(self._socket, message)
