"""One connection: limits heads, and ends the connection when its client keeps it waiting for too long."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from http import HTTPStatus
from socket import SO_SNDBUF, SOL_SOCKET
from typing import TYPE_CHECKING, cast

from typing_extensions import override

from echo.request_id import request_id
from server.address import host, network
from server.framing import Framing, Refusal
from server.outq import unacknowledged
from server.transport import CountingTransport

if TYPE_CHECKING:
    from server.connections import Connections

#: Makes the HTTP server's protocol of a connection.
MakeProtocol = Callable[["Gate"], asyncio.Protocol]


class Gate(asyncio.Protocol):
    """Receives a connection's bytes and passes them to the HTTP server's protocol, or after a handshake to a socket's.

    Heads are measured before they are passed on. ``check``, called every second, ends a connection that has waited too
    long for its client: for a request, for the rest of its head or of a refused body, or for progress in sending.
    """

    def __init__(self, connections: Connections, make: MakeProtocol) -> None:
        self._connections = connections
        self._limits = connections.limits
        self._make = make
        self._framing = Framing(self._limits.head_bytes, self._limits.headers)
        self._socket: asyncio.Transport | None = None
        self._transport: CountingTransport | None = None
        self._inner: asyncio.Protocol | None = None
        #: Whether it has become a socket, with frames instead of requests.
        self._is_socket = False
        self._finished = 0
        #: Bytes of frames since a message was taken, and what of it is beyond ``frames_bytes``.
        self._frames_bytes = self._large_frames = 0
        #: The other end, what it is counted by, and who its last request was from.
        self.peer = ""
        self.address = ""
        self.client = ""
        #: About to end: whatever arrives is dropped.
        self.closing = False
        self._waiting_since = time.monotonic()
        self._head_since: float | None = None
        self._thrown_away = 0
        #: Received and not passed on yet; reading is paused meanwhile.
        self._waiting = bytearray()
        self._next_turn: asyncio.Handle | None = None
        self._paused = False
        #: Bytes that the client has acknowledged; -1 while there is nothing to send.
        self._delivered = -1
        self._progress_at = self._waiting_since

    # -- what the event loop calls

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._socket = socket = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self.peer = host(peer)
        self.address = self.client = network(peer)
        self._waiting_since = self._progress_at = time.monotonic()
        if (system := socket.get_extra_info("socket")) is not None:
            system.setsockopt(SOL_SOCKET, SO_SNDBUF, self._limits.send_buffer)
        if (refusal := self._connections.admit(self)) is not None:
            self._refuse(refusal)
            return
        self._inner = self._make(self)
        self._transport = CountingTransport(socket, self, self._inner)
        self._inner.connection_made(self._transport)

    @override
    def data_received(self, data: bytes) -> None:
        # Passed on in pieces, one per turn of the event loop.
        if self.closing or self._inner is None:
            self._receive_unwanted(data)
        elif not self._waiting and not self._paused and len(data) <= self._turn:
            self._pass_on(data)
        else:
            self._waiting += data
            if self._socket is not None:
                self._socket.pause_reading()
            self._schedule()

    @override
    def eof_received(self) -> bool | None:
        return None if self.closing or self._inner is None else self._inner.eof_received()

    @override
    def pause_writing(self) -> None:
        if self._inner is not None:
            self._inner.pause_writing()

    @override
    def resume_writing(self) -> None:
        if self._inner is not None:
            self._inner.resume_writing()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self.closing = True
        self._waiting.clear()
        if self._next_turn is not None:
            self._next_turn.cancel()
        self._connections.remove(self)
        self.message_taken()
        self._framing.close()
        inner, self._inner = self._inner, None
        if inner is not None:
            inner.connection_lost(exc)

    # -- what the application and the transport call

    def request_finished(self) -> None:
        """Count a request, or a socket, that has ended."""
        self._finished += 1
        self._waiting_since = time.monotonic()
        self._thrown_away = 0

    def message_taken(self) -> None:
        """Start counting frames afresh: the application has read a message from the socket."""
        self._frames_bytes = 0
        self._count_large(0)

    def switch(self, protocol: asyncio.BaseProtocol) -> None:
        """Pass what is received to another protocol from now on."""
        self._inner = cast(asyncio.Protocol, protocol)
        self._is_socket = True

    def pause(self) -> None:
        """Pass nothing on for now."""
        self._paused = True
        if self._socket is not None:
            self._socket.pause_reading()

    def resume(self) -> None:
        """Pass on again what is received."""
        self._paused = False
        if self._waiting:
            self._schedule()
        elif self._socket is not None:
            self._socket.resume_reading()

    def close(self) -> None:
        """End the connection once everything has been sent.

        While a body or a message is still arriving, reading goes on for a while. Otherwise the kernel would reset the
        connection, and the client would lose the answer.
        """
        if self._socket is None:
            return
        arriving = bool(self._waiting or self._frames_bytes) if self._is_socket else self._framing.in_body
        if arriving and not self.closing:
            self._linger()
        elif not self._lingers:
            self._socket.close()

    def answer_to(self, refusal: Refusal, known: str | None) -> bytes:
        """Count a request that the application does not see; returns its answer. ``known`` is its id, if it has one."""
        number = known or request_id(self._framing.request_id)
        self._connections.refused(self, refusal, number)
        return _answer(refusal, number)

    # -- what the registry asks and calls

    @property
    def idle(self) -> bool:
        """Whether no request is being answered."""
        return not self._is_socket and self._framing.begun == self._finished

    @property
    def idle_since(self) -> float:
        """When the last request ended, on the monotonic clock."""
        return self._waiting_since

    @property
    def descriptor(self) -> int:
        """Number of the socket's descriptor; -1 if there is none."""
        socket = self._socket.get_extra_info("socket") if self._socket is not None else None
        return int(socket.fileno()) if socket is not None else -1

    def unsent_of(self, client: str | None) -> int:
        """Bytes of answers, of one client or of all, that the system has not taken yet."""
        return self._connections.unsent(client)

    @property
    def unsent(self) -> int:
        """Bytes of answers that the system has not taken yet."""
        return self._socket.get_write_buffer_size() if self._socket is not None else 0

    def check(self, now: float) -> None:
        """End the connection if it has waited too long."""
        if not self._leaves(now):
            self.end("stalled_reader")
        elif self.closing:
            if now - self._waiting_since > self._limits.linger_s:
                self.end("lingered")
        elif self.idle and not self.unsent and self._socket is not None and not self._socket.is_closing():
            self._check_silence(now)

    def end(self, reason: str) -> None:
        """End the connection now; the application sees that its client has left."""
        self._connections.ended(self, reason)
        if self._socket is not None:
            self._socket.abort()

    def make_room(self) -> None:
        """End this idle connection to free its place for another."""
        self._connections.ended(self, "room")
        self.closing = True
        if self._socket is not None:
            self._socket.close()

    # -- inside

    @property
    def _lingers(self) -> bool:
        return self.closing and (self._is_socket or self._framing.in_body)

    def _leaves(self, now: float) -> bool:
        """Whether there is nothing to send, or sending makes progress.

        Progress is what the client's kernel acknowledges. A slow reader's kernel takes small pieces long before this
        one's buffers have room again.
        """
        unsent = self.unsent
        if not unsent:
            self._delivered, self._progress_at = -1, now
            return True
        written = self._transport.written if self._transport is not None else 0
        delivered = written - unsent - unacknowledged(self.descriptor)
        if self._delivered < 0 or delivered > self._delivered:
            self._delivered, self._progress_at = delivered, now
        return now - self._progress_at <= self._limits.send_s

    def _check_silence(self, now: float) -> None:
        if self._framing.in_body:
            if now - self._waiting_since > self._limits.linger_s:
                self.end("unwanted_body")
        elif self._head_since is not None:
            if now - self._head_since > self._limits.receive_s:
                self._refuse(
                    Refusal(408, "slow_head", f"The request's head took more than {self._limits.receive_s:g} s.")
                )
        elif now - self._waiting_since > (self._limits.keep_alive_s if self._finished else self._limits.receive_s):
            self.end("silent")

    @property
    def _turn(self) -> int:
        return self._limits.socket_turn_bytes if self._is_socket else self._limits.turn_bytes

    def _schedule(self) -> None:
        if self._next_turn is None and self._waiting and not self._paused:
            self._next_turn = asyncio.get_running_loop().call_soon(self._take_turn)

    def _take_turn(self) -> None:
        self._next_turn = None
        if self._paused or not self._waiting:
            return
        piece = bytes(self._waiting[: self._turn])
        del self._waiting[: len(piece)]
        self._pass_on(piece)
        if self._waiting:
            self._schedule()
        elif not self._paused and self._socket is not None and not self._socket.is_closing():
            self._socket.resume_reading()

    def _pass_on(self, data: bytes) -> None:
        if self._inner is None:
            return
        if self._is_socket:
            self._frames_bytes += len(data)
            self._count_large(max(0, self._frames_bytes - self._limits.frames_bytes))
            if (
                self._frames_bytes > self._limits.endless_bytes
                or self._connections.large_frames > self._limits.large_frames_bytes
            ):
                # Now: the event loop reports the end later.
                self._waiting.clear()
                self._count_large(0)
                self.end("endless_message")
            else:
                self._inner.data_received(data)
            return
        if self._framing.opaque:
            return  # the HTTP server has given up on what came before
        self._framing.allowed = self._finished + 1 + self._limits.pipelined
        self._framing.feed(data)
        if self._framing.refusal is not None:
            self._refuse(self._framing.refusal)
            return
        if not self.idle:
            self._head_since = None
        elif self._framing.in_body:
            self._throw_away(len(data))  # its request has been answered without the body
        elif self._head_since is None:
            self._head_since = time.monotonic()
        self._inner.data_received(data)

    def _count_large(self, count: int) -> None:
        self._connections.large_frames += count - self._large_frames
        self._large_frames = count

    def _receive_unwanted(self, data: bytes) -> None:
        if self._framing.in_body:
            self._framing.feed(data)
            if not self._framing.in_body and self._socket is not None:
                self._socket.close()
        self._throw_away(len(data))

    def _throw_away(self, count: int) -> None:
        self._thrown_away += count
        if self._thrown_away > self._limits.linger_bytes:
            self.end("unwanted_body")

    def _refuse(self, refusal: Refusal) -> None:
        """Answer in place of the application, and end the connection."""
        if self._socket is None:
            return
        answer = self.answer_to(refusal, None)
        if not self.idle:
            self._socket.abort()  # another answer is being sent: no refusal can be sent in its middle
            return
        self._socket.write(answer)
        self._linger()

    def _linger(self) -> None:
        self.closing = True
        self._waiting_since = time.monotonic()
        self._thrown_away = 0
        waiting, self._waiting = self._waiting, bytearray()
        self._receive_unwanted(bytes(waiting))
        if self._socket is not None and not self._socket.is_closing():
            self._socket.resume_reading()
            if self._socket.can_write_eof():
                self._socket.write_eof()


def _answer(refusal: Refusal, number: str) -> bytes:
    """Return an HTTP answer in OpenAI's error shape, which is the default where no wire format owns the path."""
    kind = "rate_limit_error" if refusal.status == 429 else "server_error" if refusal.status >= 500 else None
    error = {
        "message": refusal.message,
        "type": kind or "invalid_request_error",
        "param": None,
        "code": refusal.reason,
    }
    body = json.dumps({"error": error}).encode()
    retry = "Retry-After: 5\r\n" if refusal.status in (429, 503) else ""
    head = (
        f"HTTP/1.1 {refusal.status} {HTTPStatus(refusal.status).phrase}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n{retry}X-Request-Id: {number}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
