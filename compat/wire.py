"""Shared by the foreign wire formats: messages of sockets, and the client's own names of fields in errors."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Mapping
from copy import copy

from starlette.websockets import WebSocket, WebSocketDisconnect

from echo.errors import EchoError
from routes.json import decode as decode_json


def decode(message: bytes | str) -> object:
    """Decode a socket's message; raises BadRequest."""
    return decode_json(message if isinstance(message, bytes) else message.encode("utf-8", "surrogatepass"), "message")


async def receive(socket: WebSocket, idle_s: float, busy: Callable[[], bool]) -> str | bytes | None:
    """Return the next message; None once the client has left.

    Raises TimeoutError when none has come for ``idle_s`` and the socket is not ``busy`` speaking then.
    """
    while True:
        try:
            async with asyncio.timeout(idle_s):
                message = await socket.receive()
        except TimeoutError:
            if busy():
                continue
            raise
        if message["type"] == "websocket.disconnect":
            return None
        return message.get("text") or message.get("bytes") or ""


async def send(socket: WebSocket, message: Mapping[str, object] | bytes) -> None:
    """Send a message, as JSON unless it is bytes; nothing once the socket is closed, which its reader notices."""
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        if isinstance(message, bytes):
            await socket.send_bytes(message)
        else:
            await socket.send_text(json.dumps(message))


async def close(socket: WebSocket, code: int, reason: str = "") -> None:
    """Close a socket unless it is closed already."""
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        await socket.close(code, reason)


def with_client_field_names(error: EchoError, names: Mapping[str, str]) -> str:
    """Return an error's message; the field it begins with is replaced by the client's name for it (``names``)."""
    param = error.param or ""
    for field, name in ((param, names.get(param)), (f"'{param}'", f"'{names.get(param)}'")):
        if param in names and error.message.startswith(field):
            return f"{name}{error.message[len(field) :]}"
    return error.message


def in_client_terms(error: EchoError, names: Mapping[str, str]) -> EchoError:
    """Return a copy of an error with the client's names of fields in message and ``param``."""
    other = copy(error)
    other.message = with_client_field_names(error, names)
    other.param = names.get(error.param or "", error.param)
    return other
