"""JSON of a request: read without holding up anybody else, and without growing beyond what it is on the wire.

A body of brackets and commas makes objects of a hundred times its size, and the parser holds the interpreter until it
is through. So what stands outside of strings is limited first, and a long string, which only inline audio is, does not
pass through the parser at all.
"""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic_core import from_json
from starlette.requests import Request

from echo.errors import BadRequest

#: Most bytes outside of strings: brackets, numbers, blanks. A request of every option with line breaks has some 2,000.
MAX_OUTSIDE = 64 * 1024
#: Strings up to here are the parser's; longer ones must be base64.
_LONG = 3 * 2**20
#: Most bytes of strings that the parser gets.
_MAX_INSIDE = 4 * 2**20
#: Most quotation marks inside of a string.
_MAX_QUOTES = 64 * 1024
#: Most backslashes in a row.
_MAX_BACKSLASHES = 1024
#: Bodies up to this size are parsed at once: that takes less than changing to a thread and back.
_AT_ONCE = 16 * 1024
#: A long string is copied in pieces: each holds the interpreter for about a millisecond.
_PIECE = 2**18

#: Base64 of either alphabet, with line breaks, and the ``data:`` address in front of it.
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=_-:;,. \n\r\t"
#: What may be escaped in it, as JSON writes it and what it means.
_ESCAPES = ((rb"\/", b"/"), (rb"\n", b"\n"), (rb"\r", b"\r"), (rb"\t", b"\t"))


class JsonReader:
    """Reads the bodies of requests; large ones one after another, in a thread. One per application."""

    def __init__(self) -> None:
        self._large = asyncio.Semaphore()

    async def read(self, request: Request) -> object:
        """Return a request's body, whatever content type it came with; raises BadRequest.

        The bytes are not kept: ``request.body()`` would hold them for as long as the answer takes.
        """
        data = bytearray()
        async for piece in request.stream():
            data += piece
        if len(data) <= _AT_ONCE:
            return decode(data)
        async with self._large:
            return await asyncio.to_thread(decode, data)


async def read_json(request: Request) -> object:
    """Return a request's body as JSON, whatever content type it came with; raises BadRequest."""
    reader: JsonReader = request.app.state.json
    return await reader.read(request)


def decode(data: bytes | bytearray, what: str = "body") -> object:
    """Decode JSON; ``what`` it is stands in the error's message.

    Raises BadRequest for anything else, half of a surrogate pair, NaN and endless nesting included, and for what would
    be out of proportion to its size.
    """
    long: dict[str, str] = {}
    try:
        short = _shortened(data, long)
    except ValueError as error:
        raise BadRequest(f"The {what} is not valid JSON for a request: {error}.", code="invalid_json") from None
    try:
        value = from_json(short, allow_inf_nan=False)
    except ValueError:
        raise BadRequest(f"The {what} is not valid JSON.", code="invalid_json") from None
    return _restored(value, long) if long else value


def _shortened(data: bytes | bytearray, long: dict[str, str]) -> bytes | bytearray:
    """Return the document with every long string replaced by a short one that stands for it in ``long``.

    Raises ValueError when there is too much outside of the strings, or too much inside of those that are left.
    """
    parts: list[bytes | bytearray] = []
    outside = inside = copied = position = 0
    while (quote := data.find(b'"', position)) >= 0:
        outside += quote - position + 1
        if outside > MAX_OUTSIDE or (end := _end_of_string(data, quote + 1)) < 0:
            break
        length = end - quote - 1
        if length > _LONG:
            name = f"\x00{len(long)}"
            long[name] = _text(data, quote + 1, end)
            parts += [data[copied : quote + 1], f"\\u0000{len(long) - 1}".encode()]
            copied = end
        else:
            inside += length
        position = end + 1
    rest = len(data) - position
    if outside > MAX_OUTSIDE or inside > _MAX_INSIDE or rest > (MAX_OUTSIDE if quote < 0 else _MAX_INSIDE):
        raise ValueError(f"more than {MAX_OUTSIDE} bytes are outside of strings; only a string of base64 may be large")
    return b"".join([*parts, data[copied:]]) if parts else data


def _end_of_string(data: bytes | bytearray, start: int) -> int:
    """Return where the quotation mark is that ends the string; -1 if there is none."""
    position = start
    for _ in range(_MAX_QUOTES):
        quote = data.find(b'"', position)
        if quote < 0:
            return -1
        before = data[max(start, quote - _MAX_BACKSLASHES) : quote]
        backslashes = len(before) - len(before.rstrip(b"\\"))
        if backslashes == _MAX_BACKSLASHES:
            break
        if backslashes % 2 == 0:
            return quote
        position = quote + 1
    raise ValueError("a string has too many escaped characters")


def _text(data: bytes | bytearray, start: int, end: int) -> str:
    """Return a long string, which must be base64."""
    text = ""
    while start < end:
        stop = min(start + _PIECE, end)
        if data[stop - 1] == 0x5C and stop < end:
            stop += 1  # an escape is not cut
        piece = bytes(data[start:stop])
        if b"\\" in piece:
            for written, meant in _ESCAPES:
                piece = piece.replace(written, meant)
        if piece.translate(None, _BASE64):
            raise BadRequest(f"A string of more than {_LONG} bytes must be base64.", code="string_above_max_length")
        text += piece.decode("ascii")  # appended in place: a join at the end would copy all of it at once
        start = stop
    return text


def _restored(value: Any, long: dict[str, str]) -> Any:
    match value:
        case dict():
            return {key: _restored(item, long) for key, item in value.items()}
        case list():
            return [_restored(item, long) for item in value]
        case str():
            return long.get(value, value)
    return value
