"""Where the requests of a connection begin and end, and whether their heads are within the limits."""

from __future__ import annotations

from dataclasses import dataclass

import httptools

#: Heads are parsed in pieces of this size, so that their limit holds within one large read too.
_PIECE = 4096
#: Longest request line and header line that the websockets package reads (MAX_LINE_LENGTH), less what surrounds them.
_SOCKET_LINE = 8192 - 64


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is refused: the status of its answer, a reason for the metrics, a message for the client."""

    status: int
    reason: str
    message: str


class Framing:
    """Parses the requests on a connection as far as needed to limit their heads.

    ``feed`` takes all bytes in order. The HTTP server's own parser has no limits: it would buffer an endless header
    line in memory.
    """

    def __init__(self, head_bytes: int, headers: int) -> None:
        #: Requests that may have begun so far.
        self.allowed = 1
        self._most_bytes = head_bytes
        self._most_headers = headers
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        if hasattr(self._parser, "set_dangerous_leniencies"):  # as the HTTP server does: bytes after the last request
            self._parser.set_dangerous_leniencies(lenient_data_after_close=True)
        #: Requests whose head has been read and is within the limits.
        self.begun = 0
        #: Whether a request's head is complete and its body is not.
        self.in_body = False
        #: Whether what follows cannot be parsed: another protocol, or no HTTP.
        self.opaque = False
        #: Set once, by a head that is too large or cannot become a socket.
        self.refusal: Refusal | None = None
        self._in_head = False
        self._pending = 0
        #: Bytes since the last content of the body: the trailer of a chunked one.
        self._quiet = 0
        # Of the head: bytes of its URL, of all header lines and of the longest one; the number of header lines.
        self._url = self._size = self._longest = self._count = 0
        self._socket = self._has_body = False
        #: What the client calls the request; empty where it has not said so yet.
        self.request_id = ""

    def feed(self, data: bytes) -> None:
        """Parse more bytes; sets ``refusal`` when the head they belong to must not be passed on."""
        view = memoryview(data)
        while view and self._parser is not None and not self.opaque and self.refusal is None:
            size = len(view) if self.in_body else _PIECE
            self._quiet += size if self.in_body else 0
            piece, view = view[:size], view[size:]
            try:
                self._parser.feed_data(piece)
            except httptools.HttpParserUpgrade:
                self.opaque = True
            except httptools.HttpParserError:
                self.opaque = True  # the HTTP server answers it
            if self._in_head and self.refusal is None:
                self._pending += len(piece)
                if self._pending > self._most_bytes + _PIECE or self._url > self._most_bytes:
                    self._too_large()
            elif self._quiet > self._most_bytes and self.refusal is None:
                self._too_large()

    def close(self) -> None:
        """Drop the parser, which holds a reference to this object."""
        self._parser = None
        self.opaque = True

    # -- what the parser calls

    def on_message_begin(self) -> None:
        """A request begins."""
        self._start()
        self._in_head = True

    def on_url(self, url: bytes) -> None:
        """Count a part of the URL."""
        self._url += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header line, or one of a chunked body's trailer."""
        self._size += len(name) + len(value) + 4
        self._longest = max(self._longest, len(name) + len(value) + 4)
        self._count += 1
        lower = name.lower()
        if lower == b"upgrade" and value.lower() == b"websocket":
            self._socket = True
        elif lower == b"x-request-id":
            self.request_id = value.decode("latin-1")
        elif lower in (b"content-length", b"transfer-encoding"):
            self._has_body = True
        if self._count > self._most_headers and self.refusal is None:
            self.refusal = Refusal(431, "too_many_headers", f"At most {self._most_headers} headers are allowed.")
        elif self._url + self._size > self._most_bytes:
            self._too_large()

    def on_headers_complete(self) -> None:
        """Check the head as a whole."""
        self._in_head = False
        self._pending = self._quiet = 0
        if self._socket and self._parser is not None and self._parser.should_upgrade():
            self._check_socket(self._parser.get_method())
        if self.begun >= self.allowed and self.refusal is None:
            self.refusal = Refusal(400, "pipelined", "Too many requests were sent at once.")
        if self.refusal is None:
            self.begun += 1
            self.in_body = True

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._quiet = 0

    def on_chunk_header(self) -> None:
        """A chunk of the body begins."""
        self._quiet = 0

    def on_message_complete(self) -> None:
        """The body has been read."""
        self.in_body = False

    # -- rules

    def _start(self) -> None:
        self._url = self._size = self._longest = self._count = 0
        self._socket = self._has_body = False
        self.request_id = ""

    def _too_large(self) -> None:
        if self.refusal is not None:
            return
        allowed = f"at most {self._most_bytes} bytes are allowed."
        if self._url > self._most_bytes // 2:
            self.refusal = Refusal(414, "uri_too_long", f"The URL is too long: {allowed}")
        else:
            self.refusal = Refusal(431, "headers_too_large", f"The headers are too large: {allowed}")

    def _check_socket(self, method: bytes) -> None:
        """Refuse a handshake for which the websockets package would close the connection without an answer."""
        if method != b"GET" or self._has_body:
            self.refusal = Refusal(400, "bad_handshake", "A WebSocket is opened with GET and without a body.")
        elif self._url > _SOCKET_LINE:
            self.refusal = Refusal(414, "uri_too_long", f"The URL is too long: at most {_SOCKET_LINE} bytes here.")
        elif self._longest > _SOCKET_LINE:
            self.refusal = Refusal(
                431, "headers_too_large", f"A header is too long: at most {_SOCKET_LINE} bytes are allowed here."
            )
