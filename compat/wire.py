"""Shared by the foreign wire formats: messages of sockets, failures in them, and the client's own names of fields."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from copy import copy

from starlette.websockets import WebSocket, WebSocketDisconnect

from echo.errors import EchoError, EngineFailed
from routes.draining import drain_of
from routes.errors import Failure, describe
from routes.json import decode as decode_json

log = logging.getLogger(__name__)

#: Seconds without a message and without speech after which a server that shuts down takes a socket's turn for over:
#: longer than a language model pauses between two pieces of a text.
QUIET_S = 2.0
#: Close code of IANA's registry: the server restarts, come back.
_SERVICE_RESTART = 1012


def decode(message: bytes | str) -> object:
    """Decode a socket's message; raises BadRequest."""
    return decode_json(message if isinstance(message, bytes) else message.encode("utf-8", "surrogatepass"), "message")


async def receive(
    socket: WebSocket,
    idle_s: float,
    busy: Callable[[], bool],
    when_idle: Callable[[], Awaitable[None]] | None = None,
    *,
    stays: bool = False,
) -> str | bytes | None:
    """Wait for a socket's next message; None once the client has left.

    A client that has sent nothing for ``idle_s`` seconds is disconnected, unless something is being done for it.
    ``when_idle`` does that in another way than by closing with 1000. A server that shuts down disconnects the client
    with 1012 between two turns, unless the socket ``stays`` open for as long as something else.
    """
    drain = None if stays else drain_of(socket.scope)
    quiet_since = time.monotonic()
    while True:
        patience = min(idle_s, QUIET_S) if drain is not None and drain.refusing else idle_s
        try:
            async with asyncio.timeout(patience) as timer:
                with drain.wakes(timer) if drain is not None else contextlib.nullcontext():
                    message = await socket.receive()
        except TimeoutError:
            if busy():
                quiet_since = time.monotonic()
            elif drain is None or not drain.refusing:
                await (when_idle() if when_idle is not None else close(socket, 1000, "idle"))
                return None
            elif time.monotonic() - quiet_since >= patience:
                await close(socket, _SERVICE_RESTART, "the server is shutting down")
                return None
            continue
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
