"""Limits on request bodies (size, time, memory of all together), on answers that are not read, and on sockets."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Collection, Mapping

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from echo.errors import Overloaded, TimedOut, TooLarge
from echo.telemetry import Metrics
from routes import client
from routes.paths import costs, longest_prefix

#: Lowest average rate of a body, in bytes per second: a slow uplink.
_MIN_BYTES_PER_S = 32 * 1024
#: Most digits of a Content-Length; the largest 64-bit number has 19.
_MAX_DIGITS = 18


class IncomingBytes:
    """Counts the bytes of request bodies in memory, in total and per client; one per application.

    limit  bytes in total
    share  part of ``limit`` that one client may hold with several bodies
    """

    def __init__(self, limit: int, share: float, metrics: Metrics) -> None:
        self._limit = limit
        self._share = share
        self._total = 0
        self._bytes: Counter[str] = Counter()
        self._bodies: Counter[str] = Counter()
        metrics.incoming_bytes.set_function(lambda: self._total)

    def begin(self, client: str) -> None:
        """Register a body of the client."""
        self._bodies[client] += 1

    def take(self, client: str, count: int) -> None:
        """Count ``count`` more bytes; raises Overloaded when they exceed a limit.

        The share does not apply to a client's only body, which may be as large as its path allows.
        """
        own = self._bytes[client] + count
        if self._total + count > self._limit or (self._bodies[client] > 1 and own > self._limit * self._share):
            raise Overloaded("The server is receiving too much at once. Try again shortly.", retry_after_s=5)
        self._total += count
        self._bytes[client] = own

    def end(self, client: str, count: int) -> None:
        """Remove a body of ``count`` bytes."""
        self._total -= count
        self._bytes[client] -= count
        self._bodies[client] -= 1
        if not self._bodies[client]:
            del self._bodies[client], self._bytes[client]


class BodyLimit:
    """Refuses a body that is too large for its path or too slow, or exceeds what all bodies together may take.

    The size is the announced one, or counted while the body is read. ``patience_s`` is the longest pause between two
    pieces. A body counts as held until its answer begins.
    """

    def __init__(
        self,
        app: ASGIApp,
        default: int,
        limits: Mapping[str, int],
        incoming: IncomingBytes | None = None,
        patience_s: float | None = None,
    ) -> None:
        self._app = app
        self._default = default
        self._limits = limits
        self._incoming = incoming
        self._patience_s = patience_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; raises TooLarge, TimedOut or Overloaded."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = longest_prefix(scope["path"], self._limits, self._default)
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and (len(announced) > _MAX_DIGITS or int(announced) > limit):
            raise _too_large(limit)
        body = _Body(self._incoming, client.of(scope))
        started = time.monotonic()

        async def counted() -> Message:
            if body.complete:
                return await receive()
            try:
                async with asyncio.timeout(self._left(started, body.read)):
                    message = await receive()
            except TimeoutError:
                raise TimedOut("The body did not come in time.") from None
            body.add(message)
            if body.read > limit:
                raise _too_large(limit)
            return message

        async def answering(message: Message) -> None:
            body.release()
            await send(message)

        try:
            await self._app(scope, counted, answering)
        finally:
            body.release()

    def _left(self, started: float, read: int) -> float | None:
        """Seconds that the next piece may take; None = any."""
        if self._patience_s is None:
            return None
        whole = started + self._patience_s + read / _MIN_BYTES_PER_S - time.monotonic()
        return max(0.0, min(self._patience_s, whole))


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The body is too large: at most {limit} bytes are allowed.")


class _Body:
    """The part of one request's body that has arrived."""

    def __init__(self, incoming: IncomingBytes | None, client: str) -> None:
        self.read = 0
        self.complete = False
        self._incoming = incoming
        self._client = client
        self._held = 0
        if incoming is not None:
            incoming.begin(client)

    def add(self, message: Message) -> None:
        """Count a piece; raises Overloaded."""
        self.count(len(message.get("body", b"")))
        self.complete = not message.get("more_body", False)

    def count(self, count: int) -> None:
        """Count more bytes; raises Overloaded."""
        self.read += count
        if self._incoming is not None:
            self._incoming.take(self._client, count)
            self._held += count

    def release(self) -> None:
        """Stop counting the body as held."""
        incoming, self._incoming = self._incoming, None
        if incoming is not None:
            incoming.end(self._client, self._held)


class UnsentLimit:
    """Refuses new speech while clients leave more than ``limit`` bytes of finished answers unread.

    One client may leave ``share`` of that.
    """

    def __init__(self, app: ASGIApp, limit: int, share: float, costly: Collection[str]) -> None:
        self._app = app
        self._limit = limit
        self._share = share
        self._costly = costly

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; raises Overloaded."""
        connection = scope.get("state", {}).get("connection")
        if connection is not None and scope["type"] == "http" and costs(scope, self._costly):
            if connection.unsent_of(None) > self._limit:
                raise Overloaded("Too many answers are waiting to be read.", retry_after_s=5)
            if connection.unsent_of(connection.client) > self._limit * self._share:
                raise Overloaded("You have too many answers that you do not read.", retry_after_s=5)
        await self._app(scope, receive, send)


class MessageLimit:
    """Closes a socket whose client sends a larger message than its path takes, or one for which there is no room.

    A message larger than ``default`` counts as held in ``incoming``, as a body does, until the next such message of the
    socket, or its end: it may bring a voice. Sizes are bytes, or characters of text.
    """

    def __init__(self, app: ASGIApp, default: int, limits: Mapping[str, int], incoming: IncomingBytes) -> None:
        self._app = app
        self._default = default
        self._limits = limits
        self._incoming = incoming

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the socket on."""
        if scope["type"] != "websocket":
            await self._app(scope, receive, send)
            return
        limit = longest_prefix(scope["path"], self._limits, self._default)
        held: _Body | None = None

        async def checked() -> Message:
            nonlocal held
            message = await receive()
            size = len(message.get("text") or message.get("bytes") or "")
            if size <= self._default:
                return message
            if size > limit:
                return await closing(1009, f"A message may have {limit} bytes.")
            if held is not None:
                held.release()
            held = _Body(self._incoming, client.of(scope))
            try:
                held.count(size)
            except Overloaded as error:
                return await closing(1013, error.message)
            return message

        async def closing(code: int, reason: str) -> Message:
            await send({"type": "websocket.close", "code": code, "reason": reason})
            return {"type": "websocket.disconnect", "code": code, "reason": reason}

        try:
            await self._app(scope, checked, send)
        finally:
            if held is not None:
                held.release()


class SocketLimit:
    """Refuses the handshake of a socket while its client has ``limit`` open ones; 0 = any number."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit
        self._open: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; raises Overloaded."""
        if scope["type"] != "websocket":
            await self._app(scope, receive, send)
            return
        name = client.of(scope)
        if 0 < self._limit <= self._open[name]:
            raise Overloaded(
                f"You have {self._open[name]} sockets open, {self._limit} are allowed.",
                code="too_many_sockets",
                retry_after_s=5,
            )
        self._open[name] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._open[name] -= 1
            if not self._open[name]:
                del self._open[name]
