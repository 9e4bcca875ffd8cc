"""Answers with audio, whole or streamed: their headers, and what happens when the client leaves or the speech fails."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, Protocol, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from echo.errors import EchoError
from echo.service import SpeechService, SpeechStream
from echo.types import Encoding, SpeechRequest

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Proxies must pass every block on at once: nginx buffers without the first, caches may without the second.
STREAM_HEADERS = {"X-Accel-Buffering": "no", "Cache-Control": "no-cache"}
#: Most audio bytes on one line of base64. Line readers of some clients fail at 64 KiB, which base64 reaches at 48 KiB.
#: Even, so that no 16-bit sample is split.
LINE_AUDIO_BYTES = 32 * 1024


async def answer_whole(
    request: Request,
    service: SpeechService,
    speech: SpeechRequest,
    *,
    headers: Mapping[str, str] | None = None,
    render: Callable[[SpeechStream, bytes], Response] | None = None,
) -> Response:
    """Speak to the end and answer in one piece; the work is cancelled when the client leaves.

    ``render`` makes the response of the exhausted stream and its audio, by default the bare file. Raises what
    ``SpeechService.collect`` does.
    """
    stream, audio = await until_disconnect(request, service.collect(speech))
    response = (render or _file)(stream, audio)
    response.headers.update({**_whole_headers(stream), **(headers or {})})
    return response


async def answer_streamed(
    request: Request,
    service: SpeechService,
    speech: SpeechRequest,
    *,
    headers: Mapping[str, str] | None = None,
    media_type: str | None = None,
    envelope: Callable[[SpeechStream], ByteStream] | None = None,
) -> Response:
    """Answer with the speech as it is made, from its first bytes on.

    ``envelope`` wraps the stream in another format, whose ``media_type`` must then be given. Raises what
    ``SpeechService.open`` does.
    """
    stream = await until_disconnect(request, service.open(speech))
    return SpeechResponse(
        envelope(stream) if envelope else stream,
        media_type=media_type or stream.output.media_type,
        headers={**_audio_headers(stream), **(headers or {})},
    )


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

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
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


def _file(stream: SpeechStream, audio: bytes) -> Response:
    return Response(audio, media_type=stream.output.media_type)


def _audio_headers(stream: SpeechStream) -> dict[str, str]:
    """What is known at the first byte: the form of the audio, and the seed that repeats it."""
    headers = {
        "X-Audio-Sample-Rate": str(stream.output.sample_rate),
        "X-Audio-Channels": "1",
        "X-Seed": str(stream.seed),
    }
    if stream.output.encoding is Encoding.PCM:
        headers["X-Audio-Format"] = "s16le"
    return headers


def _whole_headers(stream: SpeechStream) -> dict[str, str]:
    """What is known besides when the speech has ended."""
    return {
        **_audio_headers(stream),
        "X-Rerolls": str(stream.stats.rerolls),
        "X-Audio-Duration": f"{stream.output.duration_s:.3f}",
    }
