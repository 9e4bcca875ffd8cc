"""Jobs on the disk: a folder each, in which every file is old or new and never half written."""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
from pathlib import Path

from pydantic import ValidationError

from echo.files import atomic_write, sync_folder, write_synced
from echo.jobs.record import BookText, JobRecord

log = logging.getLogger(__name__)

#: Bytes of a sample of a piece: 16-bit PCM.
SAMPLE_BYTES = 2
#: Folders of jobs that are not there yet, or not any more.
_UNUSED = ".*.tmp"
_ID = re.compile(r"job_[0-9a-f]{24}")


class PieceFolder:
    """The pieces of a job that have been spoken: a file of 16-bit samples each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, number: int) -> Path:
        """Where a piece is, or will be."""
        return self._folder / f"{number:06d}.pcm"

    def write(self, number: int, audio: bytes) -> None:
        """Keep a piece; raises OSError."""
        with atomic_write(self.path(number)) as path:
            path.write_bytes(audio)

    def sizes(self) -> dict[int, int]:
        """Return the bytes of every piece that is there, by its number."""
        try:
            entries = list(os.scandir(self._folder))
        except FileNotFoundError:
            return {}
        return {int(entry.name[:6]): entry.stat().st_size for entry in entries if entry.name.endswith(".pcm")}

    def remove(self) -> None:
        """Remove all pieces."""
        shutil.rmtree(self._folder, ignore_errors=True)


class JobStore:
    """A folder of jobs. Raises OSError where the disk does."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def create(self, record: JobRecord, text: BookText, clip: bytes | None) -> None:
        """Keep a new job; it is there as a whole or not at all, also after a loss of power."""
        self._root.mkdir(parents=True, exist_ok=True)
        draft = self._unused()
        draft.mkdir()
        try:
            write_synced(draft / "text.json", text.model_dump_json().encode())
            write_synced(draft / "job.json", record.model_dump_json(indent=1).encode())
            if clip is not None:
                write_synced(draft / "clip", clip)
            sync_folder(draft)
            draft.rename(self._folder(record.id))
            sync_folder(self._root)
        except OSError:
            shutil.rmtree(draft, ignore_errors=True)
            raise

    def save(self, job: str, record: str) -> None:
        """Keep a changed record, as JSON."""
        with atomic_write(self._folder(job) / "job.json") as path:
            path.write_text(record)

    def records(self) -> list[JobRecord]:
        """Return all jobs, the oldest first; what cannot be read is reported and left alone.

        What an earlier process has not brought to its end, new or removed, is removed.
        """
        for path in self._root.glob(_UNUSED):
            shutil.rmtree(path, ignore_errors=True)
        found = []
        for path in self._root.glob("job_*/job.json"):
            try:
                found.append(JobRecord.model_validate_json(path.read_bytes()))
            except (OSError, ValidationError) as error:
                log.warning("the job in %s cannot be read: %s", path.parent, error)
        return sorted(found, key=lambda record: (record.created_at, record.id))

    def text(self, job: str) -> BookText:
        """Return the text of a job."""
        return BookText.model_validate_json((self._folder(job) / "text.json").read_bytes())

    def clip(self, job: str) -> bytes:
        """Return the clip of a job whose voice is one."""
        return (self._folder(job) / "clip").read_bytes()

    def pieces(self, job: str) -> PieceFolder:
        """Return the pieces of a job."""
        return PieceFolder(self._folder(job) / "pieces")

    def result(self, job: str, name: str) -> Path:
        """Where a result is, or will be."""
        return self._folder(job) / "results" / name

    def remove(self, job: str) -> None:
        """Remove a job with all that it has made; after OSError it is there as it was."""
        going = self._unused()
        try:
            self._folder(job).rename(going)
        except FileNotFoundError:
            return
        shutil.rmtree(going, ignore_errors=True)

    def _unused(self) -> Path:
        return self._root / f".{secrets.token_hex(8)}.tmp"

    def _folder(self, job: str) -> Path:
        if not _ID.fullmatch(job):  # it may come from an address
            raise ValueError("not a job's id")
        return self._root / job


def new_id() -> str:
    """Return an id that nobody can guess."""
    return f"job_{secrets.token_hex(12)}"
