"""The far end of a socket, without a server between: what it sends, and what came back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from starlette.types import Message
from starlette.websockets import WebSocket


class Client:
    """Queues frames, and collects the answers to them."""

    def __init__(self) -> None:
        self.answers: list[str | bytes] = []
        self.close_code: int | None = None
        self._frames: asyncio.Queue[Message] = asyncio.Queue()
        self._frames.put_nowait({"type": "websocket.connect"})

    def send(self, frame: str) -> None:
        self._frames.put_nowait({"type": "websocket.receive", "text": frame})

    def leave(self) -> None:
        self._frames.put_nowait({"type": "websocket.disconnect", "code": 1001})

    async def serve(self, handle: Callable[[WebSocket], Awaitable[None]]) -> None:
        """Have the frames handled, as they come, until the socket ends."""
        socket = WebSocket({"type": "websocket", "path": "/", "headers": []}, self._frames.get, self._answer)
        await socket.accept()
        await handle(socket)

    async def _answer(self, message: Message) -> None:
        if message["type"] == "websocket.send":
            self.answers.append(message["text"] if message.get("text") is not None else message["bytes"])
        elif message["type"] == "websocket.close":
            self.close_code = message["code"]
            self.leave()  # as a server reports it
