"""The values of this package: a voice of the library, and a clip sent along with a request."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class VoiceKind(StrEnum):
    """Where a voice comes from."""

    FILE = "file"
    FOLDER = "folder"
    CLONE = "clone"
    FETCHED = "fetched"


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """A voice of the library as it was found a moment ago.

    ``id`` is unique and finds the voice again; ``name`` is for people; ``files`` are its clips in the order in which
    they are joined. ``workspace`` is set for clones.
    """

    id: str
    name: str
    kind: VoiceKind
    files: tuple[Path, ...]
    workspace: str | None = None
    description: str = ""
    tags: tuple[str, ...] = ()
    lang: str = ""
    consent: str = ""
    transcript: str = ""


@dataclass(frozen=True, slots=True)
class ClipVoice:
    """A voice that came with the request: the bytes of an audio file, recognised but not yet decoded."""

    audio: bytes
