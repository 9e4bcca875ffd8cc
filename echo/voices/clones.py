"""Cloned voices: uploaded by clients, stored as ``{workspace}__{name}``; no other voice is ever written or deleted."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from echo.audio.wav import pcm_file
from echo.decoding.clip import Decode, decode
from echo.errors import BadRequest, EchoError, FeatureDisabled, Forbidden, QuotaExceeded, TooLarge, VoiceNotFound
from echo.files import atomic_write, draft, sync_folder, write_synced
from echo.types import SAMPLE_RATE, Audio
from echo.voices.container import Container, sniff
from echo.voices.library import VoiceLibrary
from echo.voices.metadata import VoiceMetadata, read_metadata
from echo.voices.names import CLONE_SUFFIX, CloneId
from echo.voices.reference import ClipJoiner, check_reference, decode_clip
from echo.voices.voice import Voice, VoiceKind

#: What clients may upload; other formats are for files that the operator puts there.
ACCEPTED = frozenset({Container.WAV, Container.MP3})

#: Below these a clone is made with a warning: the released model's authors advise 10 s and more.
_SHORT_SECONDS = 5.0
_QUIET_PEAK = 0.05
#: This much more than fits is decoded of a sample, to see whether it can be and whether something is lost.
_PROBE_SECONDS = 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SampleReport:
    """What was found about one uploaded sample; any error means that nothing was stored."""

    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class SamplesRejected(BadRequest):
    """At least one sample cannot be used; ``reports`` has one entry per sample, in order."""

    def __init__(self, reports: Sequence[SampleReport]) -> None:
        self.reports = tuple(reports)
        parts = [f"sample {n}: {' '.join(r.errors)}" for n, r in enumerate(self.reports, start=1) if r.errors]
        super().__init__(f"The voice was not made. {' '.join(parts)}", param="voiceSamples")


@dataclass(frozen=True, slots=True, kw_only=True)
class CloneQuota:
    """How much all clones together may be: their number, and the bytes of their files; 0 = any."""

    count: int = 0
    nbytes: int = 0


class CloneStore:
    """Makes, describes and deletes clones in one folder of the library.

    A clone is the file ``{workspace}__{name}.clone.wav`` in that folder, described by the ``.json`` beside it. All
    other files, with whatever names, are out of reach. Thread-safe; readers never see a half-written file.
    """

    def __init__(
        self,
        library: VoiceLibrary,
        folder: Path,
        *,
        max_bytes: int,
        enabled: bool,
        quota: CloneQuota | None = None,
        decode: Decode = decode,
    ) -> None:
        if folder not in library.folders:
            raise ValueError("the clones' folder must be one of the library's")
        self.enabled = enabled
        self.max_bytes = max_bytes
        self._library = library
        self._folder = folder
        self._quota = quota or CloneQuota()
        self._decode = decode
        self._writing = threading.Lock()

    def publish(
        self,
        workspace: str,
        display_name: str,
        samples: Sequence[bytes],
        *,
        lang: str = "",
        description: str = "",
        tags: Sequence[str] = (),
        consent: str = "",
        transcript: str = "",
    ) -> tuple[Voice, tuple[SampleReport, ...]]:
        """Make a voice of one or more WAV or MP3 files, joined in order; replace an existing clone of that name.

        The voice can be used as soon as this returns. Raises FeatureDisabled; BadRequest for a name of which nothing
        is left; TooLarge where the samples together exceed ``max_bytes``; SamplesRejected where one is not WAV or MP3,
        cannot be decoded, is silent or too short; QuotaExceeded where all clones together would become too much.
        """
        self.require_enabled()
        clone = CloneId.make(workspace, display_name)
        metadata = VoiceMetadata(
            display_name=display_name,
            description=description,
            tags=tuple(tags),
            lang=lang,
            consent=consent,
            transcript=transcript,
        ).checked()
        if not samples:
            raise BadRequest("'voiceSamples' needs at least one sample.", param="voiceSamples")
        if sum(len(sample) for sample in samples) > self.max_bytes:
            raise TooLarge(
                f"The samples are larger than the limit of {self.max_bytes} bytes in all.", param="voiceSamples"
            )
        path = self._folder / clone.file_name
        self._require_quota(path, 0)  # before the samples are decoded, as far as it can be said then
        audio, reports = _join(samples, self._decode)
        recording, described = pcm_file(audio, SAMPLE_RATE), metadata.to_json()
        with self._writing, _storage_errors():
            self._folder.mkdir(parents=True, exist_ok=True)
            self._require_quota(path, len(recording) + len(described))
            _store(path, recording, described)
        return self._library.get(str(clone)), reports

    def delete(self, voice_id: str) -> None:
        """Delete the clone with exactly this id.

        Raises FeatureDisabled; Forbidden for a voice not made by cloning; VoiceNotFound.
        """
        self.require_enabled()
        with self._writing, _storage_errors():
            path = self._path(voice_id)
            try:
                path.unlink()
            except FileNotFoundError:
                raise VoiceNotFound(voice_id) from None
            _metadata_path(path).unlink(missing_ok=True)

    def update(
        self,
        voice_id: str,
        *,
        display_name: str | None = None,
        description: str | None = None,
        tags: Sequence[str] | None = None,
    ) -> Voice:
        """Change what is shown about a clone; its id and its audio stay. None leaves a field as it is.

        Raises FeatureDisabled, Forbidden, VoiceNotFound, BadRequest.
        """
        self.require_enabled()
        if display_name is not None and not display_name.strip():
            raise BadRequest("'displayName' must not be empty.", param="displayName")
        with self._writing, _storage_errors():
            path = _metadata_path(self._path(voice_id))
            old = read_metadata(path)
            new = replace(
                old,
                display_name=old.display_name if display_name is None else display_name,
                description=old.description if description is None else description,
                tags=old.tags if tags is None else tuple(tags),
            )
            _replace(path, new.checked().to_json())
        return self._library.get(voice_id)

    def require_enabled(self) -> None:
        """Raise FeatureDisabled unless cloning is switched on."""
        if not self.enabled:
            raise FeatureDisabled("Cloning, changing and deleting voices is switched off on this server.")

    def _require_quota(self, path: Path, nbytes: int) -> None:
        """Raise QuotaExceeded if the clones beside the one at ``path`` leave no room for it with ``nbytes``."""
        if not (self._quota.count or self._quota.nbytes):
            return
        sizes = _clone_sizes(self._folder, but=path)
        if self._quota.count and len(sizes) >= self._quota.count:
            raise QuotaExceeded(
                f"There are as many cloned voices as may be ({self._quota.count}). Delete one to make another.",
                param="displayName",
            )
        if self._quota.nbytes and sum(sizes) + nbytes > self._quota.nbytes:
            raise QuotaExceeded(
                f"The cloned voices would take more than the {self._quota.nbytes} bytes that they may. Delete one to "
                "make another.",
                param="voiceSamples",
            )

    def _path(self, voice_id: str) -> Path:
        """Return the file of a clone, as the library has found it; no path is built from ``voice_id``."""
        voice = self._library.get(voice_id)
        path = voice.files[0]
        if voice.kind is not VoiceKind.CLONE or path.parent != self._folder:
            raise Forbidden("This voice was not made by cloning and cannot be changed here.", param="voice")
        return path


def _join(samples: Sequence[bytes], decode: Decode) -> tuple[Audio, tuple[SampleReport, ...]]:
    joiner = ClipJoiner()
    reports = []
    for sample in samples:
        room = joiner.seconds_left
        try:
            if sniff(sample) not in ACCEPTED:
                raise BadRequest("Only WAV and MP3 files are accepted.")
            clip = check_reference(decode_clip(sample, room + _PROBE_SECONDS, decode))
        except BadRequest as error:
            reports.append(SampleReport(errors=(error.message,)))
            continue
        reports.append(SampleReport(warnings=_warnings(clip, room)))
        joiner.add(clip)
    if any(report.errors for report in reports):
        raise SamplesRejected(reports)
    return joiner.audio(), tuple(reports)


def _warnings(clip: Audio, room: float) -> tuple[str, ...]:
    warnings = []
    seconds = len(clip) / SAMPLE_RATE
    if seconds > room:
        warnings.append("Not all of this sample is used: a voice holds five minutes.")
    elif seconds < _SHORT_SECONDS:
        warnings.append("This sample is short; 10 seconds or more give a better likeness.")
    if np.abs(clip).max() < _QUIET_PEAK:
        warnings.append("This sample is very quiet.")
    return tuple(warnings)


def _metadata_path(path: Path) -> Path:
    return path.with_suffix(".json")


def _clone_sizes(folder: Path, *, but: Path) -> list[int]:
    """Return the bytes of each clone in the folder, with its description, except the one at ``but``."""
    sizes = []
    with suppress(FileNotFoundError), os.scandir(folder) as listing:
        for item in listing:
            if item.name.endswith(CLONE_SUFFIX) and item.name != but.name:
                with suppress(OSError):  # deleted meanwhile
                    sizes.append(item.stat(follow_symlinks=False).st_size + _size(_metadata_path(folder / item.name)))
    return sizes


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _store(path: Path, audio: bytes, description: bytes) -> None:
    """Put a clone in place so that a reader, or a restart after a crash, finds each of its files old or new.

    Both are written before one is renamed: a full disk leaves everything as it was. The audio comes last: it is what
    makes the voice exist.
    """
    beside = _metadata_path(path)
    with draft(beside) as described, draft(path) as recorded:
        write_synced(described, description)
        write_synced(recorded, audio)
        before = beside.read_bytes() if beside.is_file() else None
        os.replace(described, beside)
        try:
            os.replace(recorded, path)
        except OSError:
            if before is None:
                beside.unlink()
            else:
                _replace(beside, before)
            raise
    sync_folder(path.parent)


def _replace(path: Path, data: bytes) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def _storage_errors() -> Iterator[None]:
    """Turn a full disk or a folder without write permission into a message that says nothing of paths."""
    try:
        yield
    except OSError as error:
        _log.error("cannot write to the clones' folder: %s", error)
        raise EchoError("The server could not store the change.", code="storage_failed") from None
