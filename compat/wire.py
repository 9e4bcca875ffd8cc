"""What foreign wire formats need: JSON of sockets, and messages in the client's own words."""

from __future__ import annotations

from collections.abc import Mapping

from echo.errors import EchoError
from routes.json import decode as decode_json


def decode(message: bytes | str) -> object:
    """Decode a socket's message; raises BadRequest."""
    return decode_json(message if isinstance(message, bytes) else message.encode("utf-8", "surrogatepass"), "message")


def reworded(error: EchoError, names: Mapping[str, str]) -> str:
    """Return an error's message with the field it begins with under the name that the client knows it by."""
    param = error.param or ""
    if param in names and error.message.startswith(param):
        return names[param] + error.message[len(param) :]
    return error.message
