"""What may be the name of a voice: one place for every rule about names, suffixes and identifiers.

Names from clients are only ever compared with names read from the disk. The one path built from a client's words is
that of a clone, and those words have been reduced to harmless characters here first.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from echo.errors import BadRequest

#: Files that are read as reference clips, in order of preference where several share a stem.
AUDIO_SUFFIXES = (".wav", ".mp3", ".m4a", ".ogg", ".flac", ".webm", ".aac", ".opus")
#: The names that OpenAI's clients know; some refuse to send any other.
OPENAI_VOICES = frozenset(
    ["alloy", "ash", "ballad", "cedar", "coral", "echo", "fable", "marin", "nova", "onyx", "sage", "shimmer", "verse"]
)
#: Asks for no reference at all: the model picks a voice.
NO_REFERENCE = "none"
#: Workspace of clones made where the request names none.
DEFAULT_WORKSPACE = "default"
#: Stands between workspace and name in the id of a clone.
SEPARATOR = "__"
#: End of the file name of a clone. The dot cannot be part of a reduced name, so no clone's id contains it, and a file
#: that an operator has put there under a clone's id is never mistaken for one that may be deleted.
CLONE_SUFFIX = ".clone.wav"

#: Longest name of a file on the usual file systems, in bytes.
MAX_NAME_BYTES = 255
#: Limits of a clone's id in UTF-8 bytes, so that `{workspace}__{name}.clone.wav` stays below MAX_NAME_BYTES.
MAX_WORKSPACE_BYTES = 64
MAX_CLONE_NAME_BYTES = 128

#: Names of files that something is still writing.
_PARTIAL_SUFFIXES = (".tmp", ".part", ".partial", ".crdownload")
#: Control characters, lone surrogates (names that are not UTF-8), line and paragraph separators.
_FORBIDDEN_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})

#: Names under which a voice may be fetched: they need no escapes in a URL, and lead nowhere else.
_FETCHABLE = re.compile(r"[A-Za-z0-9_-]{1,128}")
_NOT_KEPT_OF_ASCII = re.compile(r"[^A-Za-z0-9_ -]")


def is_voice_name(name: str) -> bool:
    """Tell whether ``name`` could be a voice's at all; applied to requests and to what is found on the disk."""
    if not name or len(name) > MAX_NAME_BYTES or name.isspace():
        return False
    if name.startswith(".") or ".." in name or "/" in name or "\\" in name:
        return False
    if name.isascii():  # nearly all are, and a large folder is gone through on every request
        return name.isprintable()
    if any(unicodedata.category(character) in _FORBIDDEN_CATEGORIES for character in name):
        return False
    return len(name.encode()) <= MAX_NAME_BYTES


def fetchable(name: str) -> str | None:
    """Return the id under which a voice of that name may be fetched: the name less its audio suffix; None = never."""
    voice_id = split_suffix(name)[0]
    reserved = squeeze(voice_id) in OPENAI_VOICES or squeeze(voice_id) == NO_REFERENCE
    return voice_id if _FETCHABLE.fullmatch(voice_id) and not reserved else None


def split_suffix(file_name: str) -> tuple[str, str]:
    """Split a file name into stem and audio suffix in lower case; the suffix is empty if it is not an audio one."""
    stem, dot, end = file_name.rpartition(".")
    suffix = f".{end.lower()}"
    return (stem, suffix) if dot and stem and suffix in AUDIO_SUFFIXES else (file_name, "")


def is_partial(name: str) -> bool:
    """Tell whether a file (given without its audio suffix) or folder is one that is still being written."""
    return name.lower().endswith(_PARTIAL_SUFFIXES)


def fold(name: str) -> str:
    """Bring ``name`` into the form in which case and the way of writing accents make no difference."""
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def squeeze(name: str) -> str:
    """Like `fold`, without spaces: Mantella lower-cases names and takes the spaces out."""
    return "".join(fold(name).split())


def reduce_name(text: str) -> str:
    """Keep the letters (with their marks), digits, ``_``, ``-`` and single spaces of ``text``, trimmed.

    Compatible forms become the plain ones first (full-width ``Ａ`` is ``A``). Reducing twice changes nothing.
    """
    if text.isascii():
        return re.sub(" +", " ", _NOT_KEPT_OF_ASCII.sub("", text)).strip(" ")
    kept = "".join(c for c in unicodedata.normalize("NFKC", text) if c in "_- " or _is_word_character(c))
    return re.sub(" +", " ", unicodedata.normalize("NFKC", kept)).strip(" ")


def reduce_workspace(text: str) -> str:
    """Like `reduce_name`, and without ``__`` or an outer ``_``, so that an id has one reading only."""
    return re.sub("_{2,}", "_", reduce_name(text)).strip("_ ")


@dataclass(frozen=True, slots=True)
class CloneId:
    """The id ``{workspace}__{name}`` of a cloned voice; the name may contain ``__``, the workspace may not."""

    workspace: str
    name: str

    @classmethod
    def make(cls, workspace: str, name: str) -> Self:
        """Reduce what a client sent to a usable id.

        Raises BadRequest where nothing is left or more than a file name can hold.
        """
        return cls(
            _reduced(workspace, reduce_workspace, "workspace", MAX_WORKSPACE_BYTES),
            _reduced(name, reduce_name, "displayName", MAX_CLONE_NAME_BYTES),
        )

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read an id; None if `make` could not have made it."""
        workspace, separator, name = unicodedata.normalize("NFC", text).partition(SEPARATOR)
        if not separator or not workspace or not name:
            return None
        if reduce_workspace(workspace) != workspace or reduce_name(name) != name:
            return None
        return cls(workspace, name)

    @classmethod
    def from_file_name(cls, file_name: str) -> Self | None:
        """Read the id of the clone that is stored as ``file_name``; None if no clone is."""
        return cls.parse(file_name.removesuffix(CLONE_SUFFIX)) if file_name.endswith(CLONE_SUFFIX) else None

    @property
    def file_name(self) -> str:
        """Name of the file that holds the clone's audio."""
        return f"{self}{CLONE_SUFFIX}"

    def __str__(self) -> str:
        return f"{self.workspace}{SEPARATOR}{self.name}"


def _is_word_character(character: str) -> bool:
    # Marks are part of the letters of Hindi, Thai and Arabic; without them a name there falls apart.
    category = unicodedata.category(character)
    return category[0] in "LM" or category == "Nd"


def _reduced(text: str, reduce: Callable[[str], str], field: str, max_bytes: int) -> str:
    # A text of megabytes is not worth the reducing.
    reduced = reduce(text[: 8 * max_bytes])
    if not reduced:
        raise BadRequest(f"'{field}' needs at least one letter, digit or '-'.", param=field)
    if len(reduced.encode()) > max_bytes or len(text) > 8 * max_bytes:
        raise BadRequest(f"'{field}' may have at most {max_bytes} bytes.", param=field)
    return reduced
