"""``WS /ws/twilio``: Twilio's end of a call. What the caller says and dials is for somebody else, and ignored."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

from starlette.websockets import WebSocket

from compat.twilio.call import Call
from compat.twilio.calls import Calls
from compat.twilio.messages import Message, Parameters, Start
from compat.wire import close, decode, late_failure, receive
from echo.errors import BadRequest, EchoError, NotReady, Overloaded
from echo.runtime import Runtime
from routes.auth import present
from routes.deps import client_of

log = logging.getLogger(__name__)

#: Seconds within which ``start`` must come; it is Twilio's second message.
START_S = 10.0
#: Seconds without any message after which the line is taken for lost; Twilio sends one every 20 ms.
IDLE_S = 60.0


class Line:
    """One connection of Twilio's. It reads messages and never waits for speech; the call's task does that."""

    def __init__(
        self, socket: WebSocket, runtime: Runtime, calls: Calls, start_s: float = START_S, idle_s: float = IDLE_S
    ) -> None:
        self._socket = socket
        self._runtime = runtime
        self._calls = calls
        self._start_s = start_s
        self._idle_s = idle_s

    async def serve(self) -> None:
        """Serve until the call ends, then stop all work."""
        try:
            async with asyncio.timeout(self._start_s):
                start = await self._start()
        except TimeoutError:
            await close(self._socket, 1008, "no start")
            return
        if start is None:
            return
        call: Call | None = None
        try:
            parameters = Parameters.of(start)
            present(self._socket, parameters.api_key)
            call = await self._open(start, parameters)
            await self._begin(call, parameters)
            await self._follow(call)
        except Exception as error:
            # Twilio has no message for an error.
            failure = late_failure(error, "Twilio call")
            log.warning("call %s is refused: %s", _shown(start.stream_sid), failure.error.message)
            await close(self._socket, _close_code(error))
        finally:
            if call is not None:
                self._calls.remove(call)
                await call.stop()
        await close(self._socket, 1000)

    async def _next(self) -> Message | None:
        """Return the next message that can be read; None once Twilio has gone."""
        # It stays while the server drains: nobody could call again in the middle of a call.
        while (frame := await receive(self._socket, self._idle_s, lambda: False, stays=True)) is not None:
            try:
                return Message.parse(decode(frame))
            except BadRequest as error:
                log.debug("a message of Twilio's was not understood: %s", error.message)
        return None

    async def _start(self) -> Start | None:
        while (message := await self._next()) is not None:
            if message.event == "start" and message.start is not None:
                return message.start
        return None

    async def _open(self, start: Start, parameters: Parameters) -> Call:
        """Return the call, once its voice and its parameters have been checked."""
        client = client_of(self._socket)
        service = self._runtime.service
        request = replace(parameters.to_request(), client=client)
        service.plan(request)  # refuses an unknown preset now, not at the first words
        await service.resolve(request.voice, client)
        call = Call(self._socket, service, start.stream_sid, request, call_sid=start.call_sid)
        self._calls.add(call)
        return call

    async def _begin(self, call: Call, parameters: Parameters) -> None:
        """Say what the call brings with it."""
        if parameters.text:
            call.say(parameters.text, end=True)
        if parameters.close:
            await call.close(now=False)

    async def _follow(self, call: Call) -> None:
        while (message := await self._next()) is not None and message.event != "stop":
            if message.event == "mark" and message.mark is not None:
                call.playback.returned(message.mark.name)


def _close_code(error: Exception) -> int:
    """1008 = against the rules, 1013 = try again later, 1011 = the server's fault (RFC 6455, and IANA's registry)."""
    if isinstance(error, NotReady | Overloaded):
        return 1013
    return 1008 if isinstance(error, EchoError) else 1011


def _shown(stream_sid: str) -> str:
    return "".join(char for char in stream_sid if char.isprintable())
