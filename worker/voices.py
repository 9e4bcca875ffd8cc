"""The voices of jobs: a relative file name inside the voices folders, looked up anew for every job."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from echo.errors import BadRequest
from echo.types import VoiceRef
from echo.voices.names import AUDIO_SUFFIXES, fetchable, is_partial, is_voice_name, split_suffix


class JobVoices:
    """Clips, and folders of clips, in some voices folders and their subfolders; of equal names the first counts.

    Nothing is kept between calls: files may come, be replaced and go. What is being written (``.tmp`` and the like)
    is no voice, nor is what a link leads out of the folders or to something without an audio suffix. With ``fetches``
    the service looks by URL for clips that are not here.
    """

    def __init__(self, folders: Sequence[Path], *, clip_folders: bool = True, fetches: bool = False) -> None:
        self.folders = tuple(folders)
        self._clip_folders = clip_folders
        self._fetches = fetches

    def find(self, name: str, field: str = "speaker_voice") -> VoiceRef:
        """Return the voice of a job's ``field``; raises BadRequest in the words of the old workers."""
        files = self._files(name)
        if files:
            return VoiceRef(name=name, files=files)
        if not split_suffix(name)[1]:
            suffix = shown(os.path.splitext(name)[1])
            raise BadRequest(
                f"Unsupported {field} extension '{suffix}'; use one of {', '.join(AUDIO_SUFFIXES)}.", param=field
            )
        if self._fetches and fetchable(name):
            return VoiceRef(name=name)
        raise voice_not_found(name, field)

    def count(self) -> int:
        """Return how many clips there are, those in subfolders included."""
        return sum(
            bool(split_suffix(file)[1]) and bool(self._files(os.path.relpath(os.path.join(place, file), folder)))
            for folder in self.folders
            for place, _, files in os.walk(folder)
            for file in files
        )

    def _files(self, name: str) -> tuple[Path, ...]:
        parts = name.split("/")
        if not all(is_voice_name(part) and not is_partial(split_suffix(part)[0]) for part in parts):
            return ()
        for folder in self.folders:
            place = self._inside(os.path.join(folder, *parts))
            if place is None:
                continue
            if _is_clip(parts[-1], place):
                return (place,)
            if self._clip_folders and place.is_dir():
                return self._clips(place)
        return ()

    def _clips(self, folder: Path) -> tuple[Path, ...]:
        """The clips of a folder in name order; none where it is a voices folder itself."""
        if any(os.path.realpath(root) == str(folder) for root in self.folders):
            return ()
        try:
            names = sorted(os.listdir(folder))
        except OSError:
            return ()
        usable = (n for n in names if is_voice_name(n) and not is_partial(split_suffix(n)[0]))
        found = ((n, self._inside(os.path.join(folder, n))) for n in usable)
        return tuple(place for n, place in found if place is not None and _is_clip(n, place))

    def _inside(self, path: str) -> Path | None:
        """Where a path leads, links resolved; None where that is nowhere, or outside of the folders."""
        try:
            place = Path(os.path.realpath(path, strict=True))
        except (OSError, ValueError):
            return None
        return place if any(place.is_relative_to(os.path.realpath(root)) for root in self.folders) else None


def voice_not_found(name: str, field: str = "speaker_voice") -> BadRequest:
    """The error of a voice that is not there, whatever the reason, so that nothing about the disk leaks."""
    return BadRequest(f"{field} '{shown(name)}' not found.", param=field, code="voice_not_found")


def shown(name: str) -> str:
    """A name as far as it may appear in a message."""
    return "".join(c for c in name if c.isprintable())[:128]


def _is_clip(name: str, place: Path) -> bool:
    return bool(split_suffix(name)[1]) and bool(split_suffix(place.name)[1]) and place.is_file()
