"""What every foreign wire format needs: lenient reading of JSON, and messages in the client's own words."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic_core import from_json

from echo.errors import BadRequest, EchoError


def decode(body: bytes | str) -> object:
    """Decode JSON whatever content type it came with.

    Raises BadRequest for anything else, half of a surrogate pair, NaN and endless nesting included.
    """
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError:
        raise BadRequest("The message is not valid JSON.", code="invalid_json") from None


def reworded(error: EchoError, names: Mapping[str, str]) -> str:
    """Return an error's message with the field it begins with under the name that the client knows it by."""
    param = error.param or ""
    if param in names and error.message.startswith(param):
        return names[param] + error.message[len(param) :]
    return error.message
