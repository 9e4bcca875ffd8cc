"""What is known about a voice besides its audio: a small JSON file beside it, ``<voice>.json``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from echo.errors import BadRequest
from echo.voices.files import open_file

MAX_DISPLAY_NAME = 256
MAX_DESCRIPTION = 2_000
MAX_TAGS = 32
MAX_TAG = 64
MAX_LANG = 32
MAX_CONSENT = 256
MAX_TRANSCRIPT = 2_000
#: A metadata file larger than this is not one of ours.
_MAX_FILE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class VoiceMetadata:
    """Description of a voice for lists; all of it is optional and none of it changes the sound.

    ``consent`` says where the speaker's consent is recorded, ``transcript`` what the recording says.
    """

    display_name: str = ""
    description: str = ""
    tags: tuple[str, ...] = ()
    lang: str = ""
    consent: str = ""
    transcript: str = ""

    def checked(self) -> VoiceMetadata:
        """Return this without control characters and outer blanks; BadRequest where a field is too long."""
        if len(self.tags) > MAX_TAGS:
            raise BadRequest(f"'tags' may have at most {MAX_TAGS} items.", param="tags")
        return VoiceMetadata(
            display_name=_text(self.display_name, "displayName", MAX_DISPLAY_NAME),
            description=_text(self.description, "description", MAX_DESCRIPTION),
            tags=tuple(_text(tag, "tags", MAX_TAG) for tag in self.tags),
            lang=_text(self.lang, "langCode", MAX_LANG),
            consent=_text(self.consent, "consent", MAX_CONSENT),
            transcript=_text(self.transcript, "transcript", MAX_TRANSCRIPT),
        )

    def to_json(self) -> bytes:
        """Return the content of the metadata file."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=1).encode()


def read_metadata(path: Path) -> VoiceMetadata:
    """Read a metadata file; a missing or damaged one, or a field of the wrong type, counts as empty."""
    try:
        with open_file(path) as file:
            values = json.loads(file.read(_MAX_FILE_BYTES))
    except (OSError, ValueError, RecursionError):
        return VoiceMetadata()
    if not isinstance(values, dict):
        return VoiceMetadata()
    tags = values.get("tags")
    try:
        return VoiceMetadata(
            display_name=_string(values.get("display_name")),
            description=_string(values.get("description")),
            tags=tuple(tag for tag in tags if isinstance(tag, str)) if isinstance(tags, list) else (),
            lang=_string(values.get("lang")),
            consent=_string(values.get("consent")),
            transcript=_string(values.get("transcript")),
        ).checked()
    except BadRequest:
        return VoiceMetadata()


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""


def _text(value: str, field: str, limit: int) -> str:
    if len(value) > limit:
        raise BadRequest(f"'{field}' may have at most {limit} characters.", param=field)
    return "".join(c for c in value if c.isprintable() or c == "\n").strip()
