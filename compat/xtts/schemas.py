"""Bodies of the XTTS routes. Sampling fields of that model (``temperature``, ``top_k``, …) are ignored."""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field

from routes.errors import validated

#: SkyrimNet sends this text to see whether the server is there; an answer must cost nothing.
_PING = "ping"
_PATH_SEPARATOR = re.compile(r"[\\/]")
_SUFFIX = re.compile(r"\.wav\Z", re.IGNORECASE)
_UNSAFE = re.compile(r"[^A-Za-z0-9._ -]+")
_MAX_FILE_NAME = 100


class SpeakBody(BaseModel):
    """What to speak and with which voice, in JSON or in a query."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    text: str
    speaker_wav: Annotated[str, Field(min_length=1)]
    speed: Annotated[float, Field(ge=0.25, le=4, allow_inf_nan=False)] | None = None
    save_path: str | None = None

    @classmethod
    def parse(cls, data: object) -> Self:
        """Validate what was sent; raises BadRequest naming the field."""
        return validated(cls, data)

    @property
    def voice(self) -> str:
        """The voice's name: clients send it bare, as a file name or as a path on the game's machine."""
        return _SUFFIX.sub("", _PATH_SEPARATOR.split(self.speaker_wav)[-1])

    @property
    def is_ping(self) -> bool:
        """True for a keep-alive, which is not spoken."""
        return self.text.strip() == _PING

    @property
    def file_name(self) -> str | None:
        """``save_path`` as no more than a suggestion for the client's own disk; None if nothing of it is left."""
        base = _PATH_SEPARATOR.split(self.save_path or "")[-1]
        stem = _UNSAFE.sub("_", _SUFFIX.sub("", base)).strip(". _")[:_MAX_FILE_NAME]
        return f"{stem}.wav" if stem else None
