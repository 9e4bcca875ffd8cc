"""The far end of a socket, without a server between."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.types import Message
from starlette.websockets import WebSocket


class Client:
    """The far end of a socket: what it sends, and what came back."""

    def __init__(self) -> None:
        self.answers: list[str | bytes] = []
        self.close_code: int | None = None
        self._frames: asyncio.Queue[Message] = asyncio.Queue()
        self._frames.put_nowait({"type": "websocket.connect"})

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The answers, as JSON."""
        return [json.loads(answer) for answer in self.answers]

    def send(self, frame: str) -> None:
        self._frames.put_nowait({"type": "websocket.receive", "text": frame})

    def leave(self) -> None:
        self._frames.put_nowait({"type": "websocket.disconnect", "code": 1001})

    async def serve(self, application: Callable[[WebSocket], Awaitable[None]], query: bytes = b"") -> None:
        """Have an application serve this client."""
        scope = {"type": "websocket", "path": "/", "headers": [], "query_string": query}
        await application(WebSocket(scope, self._frames.get, self._answer))

    async def _answer(self, message: Message) -> None:
        if message["type"] == "websocket.send":
            self.answers.append(message["text"] if message.get("text") is not None else message["bytes"])
        elif message["type"] == "websocket.close":
            self.close_code = message["code"]
            self._frames.put_nowait({"type": "websocket.disconnect", "code": message["code"]})
