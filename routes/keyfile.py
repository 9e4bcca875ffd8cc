"""The file of API keys: a TOML table per key, read again when it changes."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError, model_validator

from echo.errors import ConfigError
from echo.quota import Limits
from routes.scopes import KeyScope

log = logging.getLogger(__name__)

#: Largest file, in bytes: some thousand keys.
_MAX_BYTES = 2**20
#: A name is in the log, so it must not look like something else.
_NAME = re.compile(r"[\w.@-]{1,64}", re.ASCII)
#: Not allowed in a header's value (RFC 9110, 5.5).
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

_Limit = Annotated[StrictInt, Field(ge=1, le=10**9)] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """An API key, by the SHA-256 of its bytes in UTF-8; ``client`` is whose requests are those that carry it."""

    name: str
    client: str
    digest: bytes = field(repr=False)
    scopes: frozenset[KeyScope]
    limits: Limits = field(default_factory=Limits)


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    key: Annotated[StrictStr, Field(min_length=1)] | None = None
    sha256: Annotated[StrictStr, Field(pattern="^[0-9a-fA-F]{64}$")] | None = None
    scopes: Annotated[list[KeyScope], Field(min_length=1)] = [KeyScope.SPEAK]
    streams: _Limit = None
    requests_per_minute: _Limit = None
    characters_per_minute: _Limit = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.key is None) == (self.sha256 is None):
            raise ValueError("needs either key or sha256")
        if self.key is not None and self.key.strip() != self.key:
            raise ValueError("key: blanks at its ends never arrive")
        if self.key is not None and _CONTROL.search(self.key):
            raise ValueError("key: control characters never arrive")
        return self

    def named(self, name: str) -> Key:
        return Key(
            name=name,
            client=f"key {name}",  # which a new key of the same name is, too
            digest=bytes.fromhex(self.sha256) if self.sha256 is not None else digest_of((self.key or "").encode()),
            scopes=frozenset(self.scopes),
            limits=Limits(
                streams=self.streams, requests=self.requests_per_minute, characters=self.characters_per_minute
            ),
        )


def digest_of(key: bytes) -> bytes:
    """Return what a key is stored and compared by."""
    return hashlib.sha256(key).digest()


def parse_keys(text: str, others: Sequence[Key] = ()) -> list[Key]:
    """Return the keys of a file's text; raises ValueError with the line, or the table and field, that is wrong.

    ``others`` are keys from elsewhere, of which the file must have none.
    """
    names = {key.digest: key.name for key in others}
    keys: list[Key] = []
    try:
        tables = tomllib.loads(text)
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None
    for name, table in tables.items():
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot be a name: up to 64 letters, digits and any of _.@-")
        try:
            key = _Entry.model_validate(table).named(name)
        except ValidationError as error:
            raise ValueError(f"[{name}] {_told(error.errors(include_input=False)[0])}") from None
        if (other := names.get(key.digest)) is not None:
            raise ValueError(f"[{name}] has the same key as {other}")
        names[key.digest] = f"[{name}]"
        keys.append(key)
    return keys


def _told(error: Any) -> str:
    message = str(error["msg"]).removeprefix("Value error, ")
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{place}: there is no such field; known are {', '.join(_Entry.model_fields)}"
    if error["type"].startswith("model_"):
        return "must be a table of its own"
    return f"{place}: {message[:1].lower()}{message[1:]}" if place else message


class KeyFile:
    """The keys of a file. ``look`` reads it again if it has changed; what cannot be used leaves the old keys.

    ``others`` are keys from elsewhere, of which the file must have none.
    """

    def __init__(self, path: Path, others: Sequence[Key] = ()) -> None:
        """Read the file; raises ConfigError."""
        self._path = path
        self._others = others
        self._stamp = self._current()
        try:
            self.keys = self._read()
        except ValueError as error:
            raise ConfigError(f"ECHO_KEYS_FILE={path}: {error}.") from None

    def look(self) -> None:
        """Read the file again if it has changed since the last time; a log line tells how that went."""
        stamp = self._current()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self.keys = self._read()
        except ValueError as error:
            log.error("ECHO_KEYS_FILE=%s: %s; the keys stay as they were", self._path, error)
        else:
            log.info("ECHO_KEYS_FILE=%s: %d keys", self._path, len(self.keys))

    def _current(self) -> tuple[int, ...] | None:
        # Looked at before the file is read: one that is being written is read again.
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read(self) -> list[Key]:
        try:
            with self._path.open("rb") as file:
                data = file.read(_MAX_BYTES + 1)
        except OSError as error:
            raise ValueError(f"the file cannot be read: {error.strerror}") from None
        if len(data) > _MAX_BYTES:
            raise ValueError(f"the file has more than {_MAX_BYTES} bytes")
        try:
            return parse_keys(data.decode(), self._others)
        except UnicodeDecodeError:
            raise ValueError("the file is not UTF-8 text") from None
