"""Shared by the foreign wire formats: JSON bodies that are read by hand, and audio on lines of base64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

from echo.errors import BadRequest
from routes.response import LINE_AUDIO_BYTES


def without_nulls(data: Any) -> Any:
    """Return an object of a client's JSON without the fields that are null, where null is the same as absent."""
    return {key: value for key, value in data.items() if value is not None} if isinstance(data, dict) else data


def refusal(error: ValidationError, spelled: Callable[[str], str] = str) -> BadRequest:
    """Return the error about the first wrong field, with its place in the body; ``spelled`` spells each name of it."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    # Branches of a union show up in the place as tags such as "constrained-int": no names of the client's.
    names = [str(part) for part in first["loc"] if isinstance(part, int) or part.isidentifier()]
    field = ".".join(spelled(name) for name in names)
    message = first["msg"]
    if message.startswith("Input should be a valid dictionary"):
        message = "must be a JSON object"
    message = message.removeprefix("Value error, ")
    return BadRequest(f"{field}: {message}." if field else f"{message}.", param=field or None)


def documented(model: type[BaseModel], *parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the OpenAPI description of a body that is read by hand, references to its parts written out."""
    schema = model.model_json_schema()
    parts = schema.pop("$defs", {})

    def written_out(node: Any) -> Any:
        if isinstance(node, list):
            return [written_out(item) for item in node]
        if not isinstance(node, dict):
            return node
        named = parts.get(str(node.get("$ref", "")).removeprefix("#/$defs/"), {})
        return {key: written_out(value) for key, value in {**named, **node}.items() if key != "$ref"}

    body = {"requestBody": {"required": True, "content": {"application/json": {"schema": written_out(schema)}}}}
    return {**body, "parameters": list(parameters)} if parameters else body


class AudioLines:
    """Cuts audio into pieces for lines of base64.

    The last ``held`` bytes are kept for the last line, which has to come with something else. The first line has more
    than ``header`` bytes.
    """

    def __init__(self, *, held: int = 0, header: int = 0) -> None:
        self._held = held
        self._least = header
        self._waiting = b""

    def add(self, data: bytes) -> Iterator[bytes]:
        """Take more audio; yield the pieces that are ready."""
        self._waiting += data
        while len(self._waiting) - self._held > self._least:
            take = min(LINE_AUDIO_BYTES, len(self._waiting) - self._held)
            self._least = 0
            yield self._waiting[:take]
            self._waiting = self._waiting[take:]

    def end(self) -> bytes:
        """Return the last piece, perhaps none. Nothing of what still comes is held back."""
        last, self._waiting, self._held = self._waiting, b"", 0
        return last
