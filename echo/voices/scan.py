"""Looking into the voices folders: which entries are voices, under which id, and which must never be read."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from echo.voices.names import AUDIO_SUFFIXES, CloneId, is_partial, is_voice_name, split_suffix
from echo.voices.voice import VoiceKind

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """A voice as far as the listing of its folder tells; nothing of it has been opened.

    ``name`` is its file's or folder's in ``folder``; ``clips`` and ``metadata`` are relative to ``folder``. They are
    strings because thousands of clones are gone through for each request, of which one becomes paths.
    """

    id: str
    kind: VoiceKind
    folder: Path
    name: str
    clips: tuple[str, ...]
    clone: CloneId | None = None
    metadata: str | None = None


def scan(folders: Sequence[Path], *, clip_folders: bool) -> dict[str, Entry]:
    """List the voices of all folders by id, sorted; an entry that a link leads out of the folders is left out.

    ``clip_folders``: a folder of clips is a voice.
    """
    roots = frozenset(os.path.realpath(folder) for folder in folders)
    found = [entry for folder in folders for entry in _scan_folder(folder, roots, clip_folders)]
    # Clones first and otherwise the order of the folders, as the sort is stable: the first of an id is kept.
    found.sort(key=lambda entry: entry.kind is not VoiceKind.CLONE)
    unique: dict[str, Entry] = {}
    for entry in found:
        unique.setdefault(entry.id, entry)
    return dict(sorted(unique.items(), key=lambda item: (item[0].casefold(), item[0])))


def _scan_folder(folder: Path, roots: frozenset[str], clip_folders: bool) -> Iterator[Entry]:
    items = _items(folder, roots)
    same_stem: dict[str, list[tuple[int, str, tuple[str, ...]]]] = {}
    for name, item in items.items():
        stem, suffix = split_suffix(name)
        if suffix and _is_file(item):
            clone = CloneId.from_file_name(name)
            if clone is None:
                same_stem.setdefault(stem, []).append((AUDIO_SUFFIXES.index(suffix), name, (name,)))
            else:
                yield Entry(str(clone), VoiceKind.CLONE, folder, name, (name,), clone, _metadata(stem, items))
        elif clip_folders and _is_folder(item):
            inside = sorted(_items(folder / name, roots).items())
            clips = tuple(os.path.join(name, clip) for clip, file in inside if _is_clip(file))
            if clips:
                same_stem.setdefault(name, []).append((-1, name, clips))
    for stem, group in same_stem.items():
        for position, (rank, name, clips) in enumerate(sorted(group)):
            kind = VoiceKind.FOLDER if rank < 0 else VoiceKind.FILE
            voice_id = stem if position == 0 else name
            yield Entry(voice_id, kind, folder, name, clips, None, _metadata(stem, items))


def _items(folder: Path, roots: frozenset[str]) -> dict[str, os.DirEntry[str]]:
    """Return what lies in ``folder`` and may be looked at, by name."""
    try:
        with os.scandir(folder) as listing:
            return {item.name: item for item in listing if _allowed(item, roots)}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        _log.warning("cannot list %s: %s", folder, error)
        return {}


def _allowed(item: os.DirEntry[str], roots: frozenset[str]) -> bool:
    name = item.name
    if not is_voice_name(name) or is_partial(split_suffix(name)[0]):
        return False
    if not item.is_symlink():
        # A voices folder inside another is no voice of the outer one.
        return not _is_folder(item) or os.path.realpath(item.path) not in roots
    target = Path(os.path.realpath(item.path))
    inside = any(target != Path(root) and target.is_relative_to(root) for root in roots)
    return inside and str(target) not in roots and (target.is_dir() or bool(split_suffix(target.name)[1]))


def _is_clip(item: os.DirEntry[str]) -> bool:
    return bool(split_suffix(item.name)[1]) and _is_file(item)


def _is_file(item: os.DirEntry[str]) -> bool:
    try:
        return item.is_file()
    except OSError:  # a link to itself
        return False


def _is_folder(item: os.DirEntry[str]) -> bool:
    try:
        return item.is_dir()
    except OSError:
        return False


def _metadata(stem: str, items: dict[str, os.DirEntry[str]]) -> str | None:
    name = f"{stem}.json"
    return name if name in items else None
