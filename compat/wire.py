"""Shared by the foreign wire formats: messages of sockets, failures in them, and the client's own names of fields."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from copy import copy

from starlette.websockets import WebSocket, WebSocketDisconnect

from echo.errors import EchoError, EngineFailed
from routes.errors import Failure, describe
from routes.json import decode as decode_json

log = logging.getLogger(__name__)


def decode(message: bytes | str) -> object:
    """Decode a socket's message; raises BadRequest."""
    return decode_json(message if isinstance(message, bytes) else message.encode("utf-8", "surrogatepass"), "message")


async def receive(
    socket: WebSocket, idle_s: float, busy: Callable[[], bool], when_idle: Callable[[], Awaitable[None]] | None = None
) -> str | bytes | None:
    """Wait for a socket's next message; None once the client has left.

    A client that has sent nothing for ``idle_s`` seconds is disconnected, unless something is being done for it.
    ``when_idle`` does that in another way than by closing with 1000.
    """
    while True:
        try:
            async with asyncio.timeout(idle_s):
                message = await socket.receive()
        except TimeoutError:
            if busy():
                continue
            await (when_idle() if when_idle is not None else close(socket, 1000, "idle"))
            return None
        if message["type"] == "websocket.disconnect":
            return None
        return message.get("text") or message.get("bytes") or ""


async def send(socket: WebSocket, message: object) -> None:
    """Send a message, bytes as they are and anything else as JSON.

    Does nothing on a socket that is closed, which its reader notices by itself.
    """
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # the second where the server is closing it
        if isinstance(message, bytes):
            await socket.send_bytes(message)
        else:
            await socket.send_text(json.dumps(message))


async def close(socket: WebSocket, code: int, reason: str = "") -> None:
    """Close a socket, if it is not closed yet."""
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        await socket.close(code, reason)


def late_failure(error: Exception, doing: str) -> Failure:
    """Return what a client may know of a failure after its answer has begun; the details go to the log."""
    if isinstance(error, EngineFailed):
        log.error("%s failed: %s", doing, error.message)
    elif not isinstance(error, EchoError):
        log.error("%s failed", doing, exc_info=error)
    return describe(error)


def with_client_field_names(error: EchoError, names: Mapping[str, str]) -> str:
    """Return an error's message; the field it begins with is replaced by the client's name for it (``names``)."""
    param = error.param or ""
    if param in names:
        for quote in ("", "'"):
            if error.message.startswith(field := f"{quote}{param}{quote}"):
                return f"{quote}{names[param]}{quote}{error.message[len(field) :]}"
    return error.message


def in_client_terms(error: EchoError, names: Mapping[str, str]) -> EchoError:
    """Return a copy of an error with the client's names of fields (``names``) in message and ``param``."""
    other = copy(error)
    other.message = with_client_field_names(error, names)
    other.param = names.get(error.param or "", error.param)
    return other


def log_failure(task: asyncio.Task[None]) -> None:
    """Have the log tell how a task failed that nobody waits for; a callback of the task."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("work for a socket failed", exc_info=error)
