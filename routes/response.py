"""Audio out: a response that streams, notices at once when its listener leaves, and never ends a part as a whole."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any, Protocol, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from echo.errors import EchoError

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Proxies must pass every block on at once: nginx buffers without the first, caches may without the second.
STREAM_HEADERS = {"X-Accel-Buffering": "no", "Cache-Control": "no-cache"}


class ByteStream(Protocol):
    """Bytes that somebody makes while they are sent.

    ``close`` may be called at any time and any number of times; it stops the work behind the stream and makes an
    ``anext`` that is waiting end soon. A ``SpeechStream`` is one; so is a wrapper that puts it into another envelope.
    """

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    def close(self) -> None:
        """Stop the work and free what it holds."""
        ...


class SpeechResponse(Response):
    """Streams a ByteStream, chunked, one chunk per piece.

    It listens for the client's disconnect itself and closes the stream then, and closes it in every other case too.
    When the stream raises, the response is left unfinished: the server breaks the connection, so that the client sees
    an error and not a short but complete file. ``media_type`` is sent as it is.
    """

    def __init__(
        self, stream: ByteStream, *, media_type: str, headers: Mapping[str, str] | None = None, status_code: int = 200
    ) -> None:
        self.stream = stream
        self.status_code = status_code
        self.background = None
        self.init_headers({"Content-Type": media_type, **STREAM_HEADERS, **(headers or {})})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream; returns when it has ended or the client has left."""
        gone = asyncio.Event()
        watcher = asyncio.create_task(self._watch(receive, gone))
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for piece in self.stream:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            if not gone.is_set():
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except OSError:
            pass  # some servers report a client that has left like this
        except EchoError as error:
            log.error("broke off %s after the first byte: %s", scope["path"], error.message)
        except Exception:
            log.exception("broke off %s after the first byte", scope["path"])
        finally:
            self.stream.close()
            watcher.cancel()

    async def _watch(self, receive: Receive, gone: asyncio.Event) -> None:
        with contextlib.suppress(EchoError):  # a body that nobody asked for ran into its limits
            await _disconnected(receive)
        gone.set()
        self.stream.close()


async def until_disconnect(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Await ``work``, or cancel it when the client leaves first, or what it sends runs into a limit.

    For everything slow before the headers: a whole file takes seconds, and a client that has hung up must free its
    slot then too. Raises ClientDisconnect, which the error boundary swallows, since nobody is left to answer.
    """
    task = asyncio.ensure_future(work)
    watcher = asyncio.create_task(_disconnected(request.receive))
    try:
        await asyncio.wait((task, watcher), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            # A result that arrives in spite of the cancel is returned: whoever owns it next sees the disconnect.
            await asyncio.wait((task,))
            if task.cancelled():
                raise watcher.exception() or ClientDisconnect
        return task.result()
    finally:
        watcher.cancel()
        if not task.done():  # we ourselves were cancelled
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait((task,))
        del task  # the traceback of its failure holds this frame: they would keep each other, and all of the request


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
