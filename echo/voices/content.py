"""Which bytes a file holds right now: reading, hashing, and remembering the hash for as long as that is safe."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self, TypeVar

from echo.errors import BadRequest, VoiceNotFound
from echo.voices.files import open_file
from echo.voices.voice import Voice, VoiceKind

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

#: Five minutes of 24-bit stereo at 192 kHz have 345 MB; what is larger is not a reference clip.
MAX_FILE_BYTES = 512 * 1024 * 1024
#: A file changed less than this ago may change again without its time stamps showing it: they advance in steps of a
#: few milliseconds on Linux, of up to 2 s on FAT and some network file systems.
SETTLE_S = 2.0
#: Paths whose hash is remembered.
_MAX_REMEMBERED = 16_384


@dataclass(frozen=True, slots=True)
class Signature:
    """What `stat` tells about a file's content. The change time cannot be set back, the inode tells files apart."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        """Take the signature from the result of `stat` or `fstat`."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@dataclass(frozen=True, slots=True)
class FileContent:
    """The bytes of a file with their hash; ``signature`` is None where they may have changed while being read."""

    data: bytes
    digest: bytes
    signature: Signature | None


def read_file(path: Path) -> FileContent:
    """Read and hash a whole file; raises OSError, and BadRequest for one larger than `MAX_FILE_BYTES`.

    What grows while it is read is cut off there.
    """
    with open_file(path) as file:
        before = os.fstat(file.fileno())
        if before.st_size > MAX_FILE_BYTES:
            raise BadRequest("The voice's file is too large to be a reference clip.", param="voice")
        data = _read(file, before.st_size)
        after = os.fstat(file.fileno())
    unchanged = Signature.of(before) == Signature.of(after) and len(data) == after.st_size
    return FileContent(data, digest_of(data), Signature.of(after) if unchanged else None)


def _read(file: BinaryIO, expected: int) -> bytes:
    """Read at most one byte more than ``expected``: a file that somebody keeps writing to has no end."""
    parts, left = [], expected + 1
    while left and (part := file.read(left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def digest_of(data: bytes) -> bytes:
    """Hash the bytes of one file."""
    return hashlib.sha256(data).digest()


def content_key(digests: Iterable[bytes]) -> str:
    """Combine the hashes of a voice's files, in order, into the key of its content."""
    return hashlib.sha256(b"".join(digests)).hexdigest()


def for_each_file(voice: Voice, read: Callable[[Path], _T]) -> list[_T]:
    """Apply ``read`` to the voice's files in order, leaving out clips that have just been taken from its folder.

    Raises VoiceNotFound if none is left, BadRequest if one cannot be read.
    """
    results = []
    for path in voice.files:
        try:
            results.append(read(path))
        except (FileNotFoundError, NotADirectoryError):
            if voice.kind is not VoiceKind.FOLDER:
                break
        except OSError as error:
            _log.warning("cannot read %s of voice %s: %s", path, voice.id, error)
            raise BadRequest(f"A file of the voice '{voice.id}' cannot be read.", param="voice") from None
    if not results:
        raise VoiceNotFound(voice.id)
    return results


class DigestMemo:
    """Knows the content key of voices at the cost of one `stat` per file. Thread-safe.

    A hash is remembered with the signature of the very file it was computed from, and only once that file has been
    left alone for ``settle_s`` seconds; until then the file is read again each time.
    """

    def __init__(self, *, settle_s: float = SETTLE_S) -> None:
        self._settle_ns = int(settle_s * 1e9)
        self._known: OrderedDict[Path, tuple[Signature, bytes]] = OrderedDict()
        self._lock = threading.Lock()
        self._reads = 0

    @property
    def reads(self) -> int:
        """How many files have been read to be hashed."""
        return self._reads

    @property
    def paths(self) -> int:
        """How many files' hashes are known."""
        return len(self._known)

    def peek(self, voice: Voice) -> str | None:
        """Return the key if that takes no reading, else None."""
        digests = []
        for path in voice.files:
            digest = self._lookup(path)
            if digest is None:
                return None
            digests.append(digest)
        return content_key(digests)

    def key(self, voice: Voice) -> str:
        """Return the key of the voice's present content, reading what is new or has changed.

        Raises VoiceNotFound if its files are gone.
        """
        return content_key(for_each_file(voice, self._digest))

    def _digest(self, path: Path) -> bytes:
        digest = self._lookup(path)
        if digest is not None:
            return digest
        started_ns = time.time_ns()
        content = read_file(path)
        with self._lock:
            self._reads += 1
            signature = content.signature
            if signature is None:
                return content.digest
            if max(signature.modified_ns, signature.changed_ns) + self._settle_ns <= started_ns:
                self._known[path] = (signature, content.digest)
                self._known.move_to_end(path)
                if len(self._known) > _MAX_REMEMBERED:
                    self._known.popitem(last=False)
        return content.digest

    def _lookup(self, path: Path) -> bytes | None:
        with self._lock:
            known = self._known.get(path)
        if known is None:
            return None
        try:
            signature = Signature.of(path.stat())
        except OSError:
            return None
        return known[1] if known[0] == signature else None
