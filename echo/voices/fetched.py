"""Clips that were fetched, on disk by content: a clip that several names share is kept once."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from echo.files import atomic_write
from echo.voices.scan import Entry
from echo.voices.voice import VoiceKind

_log = logging.getLogger(__name__)

_CLIP_NAME = re.compile(r"[0-9a-f]{64}\.[a-z0-9]{1,8}")
#: A use is noted on disk at most this often: it only decides which clips leave first.
_NOTED_S = 3600.0


class FetchedVoices:
    """The clips of one source, by the id under which each was found there.

    ``clips/`` holds them by the hash of their bytes, ``names/`` a small file per id that says which one it is. Above
    ``max_bytes`` those that have not been used for longest leave. Thread-safe; several servers may share a folder.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._clips = folder / "clips"
        self._names = folder / "names"
        self._max_bytes = max_bytes
        self._writing = threading.Lock()

    @property
    def count(self) -> int:
        """How many clips are kept."""
        return sum(1 for _ in _files(self._clips))

    def find(self, voice_id: str) -> Entry | None:
        """Return the voice of that id, if its clip is here."""
        note = self._note(voice_id)
        try:
            clip = note.read_text(encoding="ascii")
            if not _CLIP_NAME.fullmatch(clip) or not (self._clips / clip).is_file():
                return None
            used = note.stat().st_mtime
        except (OSError, UnicodeDecodeError):
            return None
        if abs(time.time() - used) > _NOTED_S:  # the clock may have been set back
            with suppress(OSError):  # on a disk that cannot be written to all clips are as old as they were
                os.utime(note)
        return Entry(voice_id, VoiceKind.FETCHED, self._clips, clip, (clip,))

    def add(self, voice_id: str, data: bytes, suffix: str) -> None:
        """Keep a clip; ``suffix`` is its file's. Raises OSError."""
        clip = self._clips / f"{hashlib.sha256(data).hexdigest()}{suffix}"
        with self._writing:
            self._make_room(len(data), but=clip.name)
            for path, content in ((clip, data), (self._note(voice_id), clip.name.encode("ascii"))):
                with atomic_write(path) as draft:
                    draft.write_bytes(content)

    def _note(self, voice_id: str) -> Path:
        # A hash, as some file systems take "Anna" and "anna" for one name.
        return self._names / hashlib.sha256(voice_id.encode()).hexdigest()

    def _make_room(self, nbytes: int, *, but: str) -> None:
        """Delete clips, least recently used first, until ``nbytes`` more are within the limit."""
        sizes = {item.name: item.stat().st_size for item in _files(self._clips)}
        sizes.pop(but, None)
        used: dict[str, float] = dict.fromkeys(sizes, 0.0)
        for note in _files(self._names):
            clip = Path(note.path).read_text(encoding="ascii", errors="replace")
            if clip in used:
                used[clip] = max(used[clip], note.stat().st_mtime)
        total = sum(sizes.values()) + nbytes
        for clip in sorted(used, key=lambda name: used[name]):
            if total <= self._max_bytes:
                break
            (self._clips / clip).unlink(missing_ok=True)  # its names find nothing then, and are fetched again
            total -= sizes[clip]


def _files(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as listing:
            yield from [item for item in listing if not item.name.startswith(".")]
    except FileNotFoundError:
        return
    except OSError as error:
        _log.warning("cannot list %s: %s", folder, error)
