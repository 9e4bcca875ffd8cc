"""The agent's end of a call: what to say, when to stop, and when to hang up. ``sid`` is the stream's or the call's."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.websockets import WebSocket

from compat.bodies import documented
from compat.twilio.call import Call
from compat.twilio.calls import Calls
from compat.twilio.messages import AgentMessage, CloseBody, SayBody
from compat.wire import decode, late_failure, receive, send
from routes.deps import RuntimeDep
from routes.errors import ERROR_RESPONSES, validated
from routes.json import read_json

#: Seconds without a message after which an agent's socket is closed.
IDLE_S = 600.0


def agent_router(calls: Calls, idle_s: float = IDLE_S) -> APIRouter:
    """Return the routes below ``/calls``."""
    router = APIRouter(tags=["Twilio"], responses=ERROR_RESPONSES)

    @router.post("/calls/{sid}/say", openapi_extra=documented(SayBody))
    async def say(sid: str, request: Request) -> dict[str, int]:
        """Say a text in the call, or, with ``end`` false, a piece of one; answers before it is heard."""
        body = validated(SayBody, await read_json(request))
        return {"turn": calls.find(sid).say(body.text, end=body.end)}

    @router.post("/calls/{sid}/clear")
    async def clear(sid: str) -> dict[str, str]:
        """Stop speaking at once; the answer has the words that had been heard of what was interrupted."""
        return {"heard": await calls.find(sid).clear()}

    @router.post("/calls/{sid}/close", openapi_extra=documented(CloseBody))
    async def close(sid: str, request: Request) -> dict[str, bool]:
        """Close the stream once everything has been heard, so that the call goes on with its next TwiML."""
        call = calls.find(sid)
        body = validated(CloseBody, await read_json(request) if await _has_body(request) else {})
        await call.close(now=body.now)
        return {"closing": True}

    @router.websocket("/calls/{sid}/say")
    async def stream(socket: WebSocket, sid: str, runtime: RuntimeDep) -> None:
        call = calls.find(sid)  # before the handshake is accepted, so that it can be answered 404
        await socket.accept()
        call.agents.add(socket)
        try:
            while (frame := await receive(socket, idle_s, lambda: False, stays=True)) is not None:
                await _act(socket, call, frame)
        finally:
            call.agents.discard(socket)
            call.end_turn()

    return router


async def _act(socket: WebSocket, call: Call, frame: str | bytes) -> None:
    """Do what an agent's message asks for. An error is answered; the socket stays open."""
    try:
        message = AgentMessage.parse(decode(frame))
        if message.clear:
            await send(socket, {"heard": await call.clear()})
        if message.text or message.end:
            call.say(message.text, end=message.end)
    except Exception as error:
        await send(socket, {"error": late_failure(error, "agent's socket").error.message})


async def _has_body(request: Request) -> bool:
    return request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers
