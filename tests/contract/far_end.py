"""The far end of a socket, without a server between."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.types import Message
from starlette.websockets import WebSocket

from echo.engines.fake import FakeEngine
from echo.runtime import Runtime
from echo.settings import Settings
from tests.contract.serving import PATIENCE_S


class Client:
    """The far end of a socket: what it sends, and what came back."""

    def __init__(self) -> None:
        self.answers: list[str | bytes] = []
        #: The answers that are text, as JSON.
        self.messages: list[dict[str, Any]] = []
        self.close_code: int | None = None
        self._frames: asyncio.Queue[Message] = asyncio.Queue()
        self._frames.put_nowait({"type": "websocket.connect"})

    def send(self, frame: str) -> None:
        self._frames.put_nowait({"type": "websocket.receive", "text": frame})

    def say(self, **fields: object) -> None:
        """Send a JSON message."""
        self.send(json.dumps(fields))

    def leave(self) -> None:
        self._frames.put_nowait({"type": "websocket.disconnect", "code": 1001})

    @property
    def unread(self) -> int:
        """Frames that the server has not read."""
        return self._frames.qsize()

    async def serve(self, application: Callable[[WebSocket], Awaitable[None]], query: bytes = b"") -> None:
        """Have an application serve this client."""
        place = {"path": "/", "headers": [], "query_string": query, "client": ("127.0.0.1", 1), "state": {}}
        await application(WebSocket({"type": "websocket", **place}, self._frames.get, self._answer))

    async def _answer(self, message: Message) -> None:
        if message["type"] == "websocket.send" and message.get("text") is not None:
            self.answers.append(message["text"])
            self.messages.append(json.loads(message["text"]))
        elif message["type"] == "websocket.send":
            self.answers.append(message["bytes"])
        elif message["type"] == "websocket.close":
            self.close_code = message["code"]
            self._frames.put_nowait({"type": "websocket.disconnect", "code": message["code"]})


@asynccontextmanager
async def running(voices_dir: Path, engine: FakeEngine) -> AsyncIterator[Runtime]:
    """A runtime that is ready to speak with the engine."""
    async with Runtime(Settings(voices_dir=(str(voices_dir),)), load_engine=lambda settings, gate: engine) as runtime:
        await runtime.ready()
        yield runtime


async def until(condition: Callable[[], bool]) -> None:
    """Wait for other tasks to get there."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.001)


async def pass_time(seconds: float) -> None:
    """Have the event loop's clock jump, and what was due meanwhile be done."""
    loop = asyncio.get_running_loop()
    now = loop.time
    loop.time = lambda: now() + seconds  # type: ignore[method-assign]
    for _ in range(10):
        await asyncio.sleep(0)
