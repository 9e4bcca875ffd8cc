"""Shared by the foreign wire formats: JSON of socket messages, and the client's own names of fields in errors."""

from __future__ import annotations

from collections.abc import Mapping

from echo.errors import EchoError
from routes.json import decode as decode_json


def decode(message: bytes | str) -> object:
    """Decode a socket's message; raises BadRequest."""
    return decode_json(message if isinstance(message, bytes) else message.encode("utf-8", "surrogatepass"), "message")


def with_client_field_names(error: EchoError, names: Mapping[str, str]) -> str:
    """Return an error's message; the field it begins with is replaced by the client's name for it (``names``)."""
    param = error.param or ""
    if param in names and error.message.startswith(param):
        return names[param] + error.message[len(param) :]
    return error.message
