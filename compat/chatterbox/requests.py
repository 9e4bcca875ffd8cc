"""``WS /ws/synthesize``: many requests on one connection, answered in order."""

from __future__ import annotations

import asyncio
import base64
import time
from dataclasses import dataclass

from starlette.websockets import WebSocket

from compat.chatterbox.audio import STREAMED, latency, milliseconds, open_pieces
from compat.chatterbox.errors import UnknownVoice, socket_text
from compat.chatterbox.schemas import ENGINE, OutputFormat, SpeakBody
from compat.wire import close, decode, receive, send
from echo.errors import Overloaded, VoiceNotFound
from echo.runtime import Runtime
from routes.deps import client_of

#: Requests that may wait on one connection; those beyond are answered with an error.
MAX_WAITING = 32
#: A client that goes on sending all the same is disconnected at this many.
_MAX_QUEUED = 1024


@dataclass(frozen=True, slots=True)
class _Waiting:
    """What waits for its answer: a request, or what is wrong with one."""

    request: SpeakBody | str
    arrived: float


class RequestSocket:
    """One connection. It reads messages and never waits for speech; a task of its own answers them."""

    def __init__(self, socket: WebSocket, runtime: Runtime, idle_s: float) -> None:
        self._socket = socket
        self._runtime = runtime
        self._idle_s = idle_s
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue()
        self._unanswered = 0

    async def serve(self) -> None:
        """Serve until the client disconnects or has been idle for too long, then stop all work."""
        answering = asyncio.create_task(self._answer_all())
        try:
            while (frame := await receive(self._socket, self._idle_s, lambda: self._unanswered > 0)) is not None:
                if self._unanswered >= _MAX_QUEUED:
                    await close(self._socket, 1008, "too many requests are waiting")
                    break
                request = self._read(frame)
                self._unanswered += 1
                self._queue.put_nowait(_Waiting(request, time.monotonic()))
        finally:
            answering.cancel()
            await asyncio.wait((answering,))

    def _read(self, frame: str | bytes) -> SpeakBody | str:
        """Return a request, or what is wrong with it: what waits is never larger than a text may be."""
        try:
            if self._unanswered >= MAX_WAITING:
                raise Overloaded(f"Too many requests: {MAX_WAITING} are waiting. Send more later.")
            body = SpeakBody.parse_message(decode(frame))
            self._runtime.services.of(ENGINE).rules.limits.check_text(body.text.strip())
        except Exception as error:
            return socket_text(error)
        return body

    async def _answer_all(self) -> None:
        while True:
            waiting = await self._queue.get()
            try:
                await self._answer(waiting)
            except Exception as error:
                await send(self._socket, {"error": socket_text(error)})
            self._unanswered -= 1

    async def _answer(self, waiting: _Waiting) -> None:
        if isinstance(waiting.request, str):
            await send(self._socket, {"error": waiting.request})
            return
        try:
            await self._speak(waiting.request, waiting.arrived)
        except VoiceNotFound:
            raise UnknownVoice(waiting.request.voice_id) from None

    async def _speak(self, body: SpeakBody, arrived: float) -> None:
        service = self._runtime.services.of(ENGINE)
        stream = await service.open(body.to_request(service.presets, STREAMED[body.format], client_of(self._socket)))
        try:
            rate = stream.output.sample_rate
            pieces = open_pieces(body.format, rate)
            count, first_ms = 0, None
            async for data in stream:
                for piece in pieces.push(data):
                    first_ms = milliseconds(time.monotonic() - arrived) if first_ms is None else first_ms
                    await self._send_piece(piece, count, body.format, rate)
                    count += 1
            for piece in pieces.finish():
                await self._send_piece(piece, count, body.format, rate)
                count += 1
        finally:
            stream.close()
        await send(
            self._socket,
            {
                "audio": None,
                "chunk_index": count,
                "is_final": True,
                "first_chunk_ms": first_ms,
                "total_ms": milliseconds(time.monotonic() - arrived),
                "total_chunks": count,
                "total_mulaw_chunks": count if body.format is OutputFormat.MULAW else 0,
                "latency": latency(stream.stats),
                "backend": service.engine.info.backend,
            },
        )

    async def _send_piece(self, piece: bytes, index: int, output_format: OutputFormat, rate: int) -> None:
        audio = base64.b64encode(piece).decode()
        kind = {"format": output_format.value, "sample_rate": rate}
        await send(self._socket, {"audio": audio, "chunk_index": index, "is_final": False, **kind})
