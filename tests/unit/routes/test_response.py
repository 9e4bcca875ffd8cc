import asyncio
import logging
from collections.abc import AsyncIterator, Callable

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Scope

from echo.errors import EngineFailed
from routes.response import SpeechResponse, until_disconnect

#: Only a failing test waits this long.
PATIENCE_S = 60.0
SCOPE: Scope = {"type": "http", "path": "/v1/audio/speech", "method": "POST", "headers": []}


class Pieces:
    """A stream of given pieces; an exception among them is raised, an Event is waited for until the stream closes."""

    def __init__(self, *pieces: bytes | Exception | asyncio.Event) -> None:
        self.pieces = pieces
        self.closed = asyncio.Event()
        self.closes = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            match piece:
                case asyncio.Event():
                    piece.set()
                    await self.closed.wait()
                    return
                case Exception():
                    raise piece
                case bytes():
                    yield piece

    def close(self) -> None:
        self.closes += 1
        self.closed.set()


class Client:
    """The other end: collects what is sent; ``leave`` hangs up."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.left = asyncio.Event()
        self.on_send: Callable[[], None] = lambda: None

    async def receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.on_send()
        self.sent.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def complete(self) -> bool:
        return self.sent[-1].get("more_body", True) is False


def header(client: Client, name: bytes) -> list[bytes]:
    return [value for key, value in client.sent[0]["headers"] if key == name]


async def test_pieces_are_sent_one_by_one_and_the_stream_is_closed() -> None:
    stream, client = Pieces(b"ab", b"cd"), Client()
    await SpeechResponse(stream, media_type="audio/pcm", headers={"X-Seed": "7"})(SCOPE, client.receive, client.send)
    assert [message.get("body") for message in client.sent] == [None, b"ab", b"cd", b""]
    assert client.complete
    assert stream.closes
    assert header(client, b"content-type") == [b"audio/pcm"]
    assert header(client, b"x-seed") == [b"7"]
    assert header(client, b"x-accel-buffering") == [b"no"]
    assert header(client, b"cache-control") == [b"no-cache"]
    assert not header(client, b"content-length")


async def test_a_stream_that_fails_leaves_the_response_unfinished(caplog: pytest.LogCaptureFixture) -> None:
    stream, client = Pieces(b"ab", EngineFailed("Generation failed.")), Client()
    await SpeechResponse(stream, media_type="audio/pcm")(SCOPE, client.receive, client.send)
    assert client.body == b"ab"
    assert not client.complete
    assert stream.closes
    assert [(record.levelno, record.exc_info) for record in caplog.records] == [(logging.ERROR, None)]


async def test_an_unexpected_failure_is_logged_with_its_trace(caplog: pytest.LogCaptureFixture) -> None:
    stream, client = Pieces(b"ab", ValueError("odd")), Client()
    await SpeechResponse(stream, media_type="audio/pcm")(SCOPE, client.receive, client.send)
    assert not client.complete
    assert "ValueError: odd" in caplog.text


async def test_a_client_that_leaves_closes_the_stream_while_it_is_waiting() -> None:
    waiting = asyncio.Event()
    stream, client = Pieces(b"ab", waiting, b"never"), Client()
    response = asyncio.create_task(SpeechResponse(stream, media_type="audio/pcm")(SCOPE, client.receive, client.send))
    await waiting.wait()
    client.left.set()
    await asyncio.wait_for(response, PATIENCE_S)
    assert stream.closes
    assert client.body == b"ab"
    assert not client.complete


async def test_a_send_that_reports_the_client_gone_closes_the_stream(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> None:
        raise BrokenPipeError

    stream, client = Pieces(b"ab"), Client()
    client.on_send = broken
    await SpeechResponse(stream, media_type="audio/pcm")(SCOPE, client.receive, client.send)
    assert stream.closes
    assert not caplog.records


async def test_a_cancelled_response_closes_its_stream() -> None:
    waiting = asyncio.Event()
    stream, client = Pieces(waiting), Client()
    response = asyncio.create_task(SpeechResponse(stream, media_type="audio/pcm")(SCOPE, client.receive, client.send))
    await waiting.wait()
    response.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(response, PATIENCE_S)
    assert stream.closes


async def test_work_before_the_headers_returns_its_result_or_raises_its_failure() -> None:
    async def work(result: int | Exception) -> int:
        await asyncio.sleep(0)
        if isinstance(result, Exception):
            raise result
        return result

    request = Request(SCOPE, Client().receive)
    assert await until_disconnect(request, work(3)) == 3
    with pytest.raises(EngineFailed):
        await until_disconnect(request, work(EngineFailed("x")))


@pytest.mark.parametrize("who", ["client", "server"])
async def test_work_before_the_headers_is_cancelled_when_either_end_gives_up(who: str) -> None:
    started, cleaned = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        try:
            started.set()
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    client = Client()
    task = asyncio.create_task(until_disconnect(Request(SCOPE, client.receive), work()))
    await started.wait()
    if who == "client":
        client.left.set()
    else:
        task.cancel()
    with pytest.raises(ClientDisconnect if who == "client" else asyncio.CancelledError):
        await asyncio.wait_for(task, PATIENCE_S)
    assert cleaned.is_set()


async def test_a_result_that_arrives_in_spite_of_the_disconnect_is_not_lost() -> None:
    started = asyncio.Event()

    async def work() -> str:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "opened"
        raise AssertionError

    client = Client()
    task = asyncio.create_task(until_disconnect(Request(SCOPE, client.receive), work()))
    await started.wait()
    client.left.set()
    assert await asyncio.wait_for(task, PATIENCE_S) == "opened"
