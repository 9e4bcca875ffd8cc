"""Finding voices: the folders are looked at anew for each question, so the answer is never out of date."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from echo.errors import VoiceNotFound
from echo.types import VoiceRef
from echo.voices.fetched import FetchedVoices
from echo.voices.inline import check_clip, decode_base64_voice, looks_like_base64_voice
from echo.voices.metadata import VoiceMetadata, read_metadata
from echo.voices.names import (
    DEFAULT_WORKSPACE,
    MAX_NAME_BYTES,
    NO_REFERENCE,
    OPENAI_VOICES,
    CloneId,
    fetchable,
    fold,
    is_voice_name,
    reduce_name,
    reduce_workspace,
    split_suffix,
    squeeze,
)
from echo.voices.scan import Entry, scan
from echo.voices.voice import ClipVoice, Voice, VoiceKind


@dataclass(frozen=True, slots=True, kw_only=True)
class VoiceRules:
    """What the operator has decided about voices.

    ``default`` names the voice of requests without one: empty = the first of the list, ``none`` = no reference.
    ``folders`` = a folder of clips is a voice. ``max_inline_bytes`` limits audio sent in place of a name.
    """

    default: str = ""
    folders: bool = True
    max_inline_bytes: int = 25 * 1024 * 1024


class VoiceLibrary:
    """The voices in some folders.

    A clip is a voice, a folder of clips is one, each named by its stem. With several of one stem in a folder, the
    folder of clips comes first, then the files in the order of `AUDIO_SUFFIXES`: the first has the stem as its id, the
    others their full file name. Where folders share an id the earlier folder's voice counts; a clone counts before
    any other voice of its id. What is in none of the folders may be among those that were ``fetched``, which no list
    shows. Nothing is kept between calls: instances are thread-safe, files may come and go.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        *,
        rules: VoiceRules | None = None,
        aliases: Mapping[str, str] | None = None,
        fetched: FetchedVoices | None = None,
    ) -> None:
        self.folders = tuple(folders)
        self.fetched = fetched
        self.rules = rules or VoiceRules()
        self._aliases = dict(aliases or {})
        self._folded_aliases = {squeeze(alias): name for alias, name in self._aliases.items()}

    def list(self) -> builtins.list[Voice]:
        """Return all voices, sorted by id."""
        return [_voice(entry) for entry in self._scan().values()]

    def get(self, voice_id: str) -> Voice:
        """Return the voice of exactly this id; raises VoiceNotFound."""
        return _voice(_found(self._scan().get(voice_id), voice_id))

    def find(self, name: str, *, workspace: str | None = None) -> Voice:
        """Return the voice that ``name`` means; raises VoiceNotFound.

        Tried in this order, each exactly, then ignoring case, then ignoring case and spaces: within a ``workspace``
        the short name of one of its clones; the id; the file name; the name less its audio suffix. Then the aliases,
        and last what was fetched, exactly.
        """
        return _voice(_found(self._find(self._scan(), name, workspace), name))

    def resolve(self, ref: VoiceRef) -> Voice | ClipVoice | None:
        """Return what a request wants to sound like; None = no reference.

        Takes clips that have been found already; names as `find` does, then OpenAI's (the default voice) and ``none``,
        from the request or an alias, then the short names of clones in the default workspace; audio bytes, or base64
        audio in place of a name; without any, the default voice. Raises VoiceNotFound, BadRequest or TooLarge.
        """
        if ref.files:
            kind = VoiceKind.FILE if len(ref.files) == 1 else VoiceKind.FOLDER
            name = ref.name or ref.files[0].stem
            return Voice(id=name, name=name, kind=kind, files=ref.files)
        if ref.audio is not None:
            return ClipVoice(check_clip(ref.audio, self.rules.max_inline_bytes))
        if not ref.name or ref.name.isspace():
            return self.default()
        if looks_like_base64_voice(ref.name):
            return ClipVoice(decode_base64_voice(ref.name, self.rules.max_inline_bytes))
        entries = self._scan()
        entry = self._find(entries, ref.name, None)
        if entry is None and is_voice_name(ref.name):
            if squeeze(self._alias(ref.name) or ref.name) == NO_REFERENCE:
                return None
            if squeeze(ref.name) in OPENAI_VOICES and not self.fetchable(ref):
                return self._default(entries)
            entry = self._find(
                entries, ref.name, DEFAULT_WORKSPACE
            )  # last: no upload takes the name of a voice that is here
        return _voice(_found(entry, ref.name))

    def fetchable(self, ref: VoiceRef) -> builtins.list[str]:
        """Return the ids under which a voice that was not found may be fetched: its name's, then its alias's."""
        name = ref.name if ref.name and not ref.name.isspace() else self.rules.default.strip()
        if self.fetched is None or ref.audio is not None or not is_voice_name(name):
            return []
        return _fetchable(name, self._alias(name))

    def default(self) -> Voice | None:
        """Return the voice of requests that name none; None = no reference.

        Without a setting it is the first of the list, clones last: a client must not change it by cloning. Raises
        VoiceNotFound if the configured voice does not exist.
        """
        return self._default(self._scan())

    def _scan(self) -> dict[str, Entry]:
        return scan(self.folders, clip_folders=self.rules.folders)

    def _default(self, entries: Mapping[str, Entry]) -> Voice | None:
        name = self.rules.default.strip()
        if not name:
            entry = min(entries.values(), key=lambda e: e.kind is VoiceKind.CLONE, default=None)
            return _voice(entry) if entry else None
        entry = self._find(entries, name, None)
        if entry is None and squeeze(name) == NO_REFERENCE:
            return None
        return _voice(_found(entry, name))

    def _find(self, entries: Mapping[str, Entry], name: str, workspace: str | None) -> Entry | None:
        if not is_voice_name(name):
            return None
        entry = _match(entries, name, workspace)
        alias = self._alias(name)
        if entry is None and alias is not None:
            entry = _match(entries, alias, workspace)
        if entry is None and self.fetched is not None:
            entry = next(filter(None, map(self.fetched.find, _fetchable(name, alias))), None)
        return entry

    def _alias(self, name: str) -> str | None:
        return self._aliases.get(name) or self._folded_aliases.get(squeeze(name))


def _fetchable(name: str, alias: str | None) -> list[str]:
    return [voice_id for each in (name, alias) if each is not None and (voice_id := fetchable(each)) is not None]


def _match(entries: Mapping[str, Entry], name: str, workspace: str | None) -> Entry | None:
    entry = None
    if workspace is not None:
        clone = CloneId(reduce_workspace(workspace), reduce_name(name))
        entry = _first(entries, str(clone), lambda e: e.id)
    entry = entry or entries.get(name) or _first(entries, name, lambda e: e.id)
    entry = entry or _first(entries, name, lambda e: e.name)
    return entry or _first(entries, split_suffix(name)[0], lambda e: e.id)


def _first(entries: Mapping[str, Entry], wanted: str, key: Callable[[Entry], str]) -> Entry | None:
    """Return the entry that is nearest to ``wanted``: equal, equal but for case, equal but for case and spaces."""
    for form in (str, fold, squeeze):
        target = form(wanted)
        for entry in entries.values():
            if form(key(entry)) == target:
                return entry
    return None


def _found(entry: Entry | None, name: str) -> Entry:
    if entry is None:
        raise VoiceNotFound(name[:MAX_NAME_BYTES])
    return entry


def _voice(entry: Entry) -> Voice:
    metadata = read_metadata(entry.folder / entry.metadata) if entry.metadata else VoiceMetadata()
    return Voice(
        id=entry.id,
        name=metadata.display_name or (entry.clone.name if entry.clone else entry.id),
        kind=entry.kind,
        files=tuple(entry.folder / clip for clip in entry.clips),
        workspace=entry.clone.workspace if entry.clone else None,
        description=metadata.description,
        tags=metadata.tags,
        lang=metadata.lang,
        consent=metadata.consent,
        transcript=metadata.transcript,
    )
