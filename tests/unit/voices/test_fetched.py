"""Fetched clips on the disk."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from echo.errors import VoiceNotFound
from echo.types import VoiceRef
from echo.voices.fetched import FetchedVoices
from echo.voices.library import VoiceLibrary, VoiceRules
from echo.voices.names import OPENAI_VOICES, fetchable
from echo.voices.voice import Voice, VoiceKind

CLIP = b"RIFF" + bytes(1000)


@pytest.fixture
def fetched(tmp_path: Path) -> FetchedVoices:
    return FetchedVoices(tmp_path / "cache", 10_000)


def resolved(library: VoiceLibrary, name: str | None) -> str:
    voice = library.resolve(VoiceRef(name=name))
    assert isinstance(voice, Voice)
    return voice.id


def test_a_clip_is_found_by_its_id_and_kept_by_its_content(fetched: FetchedVoices) -> None:
    assert fetched.find("anna") is None
    assert fetched.count == 0
    fetched.add("anna", CLIP, ".wav")
    fetched.add("ann", CLIP, ".wav")
    entry, other = fetched.find("anna"), fetched.find("ann")
    assert entry is not None
    assert other is not None
    assert (entry.id, entry.kind, entry.clips) == ("anna", VoiceKind.FETCHED, other.clips)
    assert (entry.folder / entry.clips[0]).read_bytes() == CLIP
    assert fetched.count == 1
    assert fetched.find("Anna") is None


def test_it_outlives_the_process(fetched: FetchedVoices, tmp_path: Path) -> None:
    fetched.add("anna", CLIP, ".mp3")
    again = FetchedVoices(tmp_path / "cache", 10_000)
    assert again.find("anna") == fetched.find("anna")


def test_the_least_recently_used_leave_when_there_is_no_room(fetched: FetchedVoices, tmp_path: Path) -> None:
    for number, name in enumerate(("old", "used", "new")):
        fetched.add(name, bytes([number]) * 4_000, ".wav")
        note = max((tmp_path / "cache" / "names").iterdir(), key=lambda path: path.stat().st_mtime_ns)
        os.utime(note, (0, time.time() - 10_000 + number))
        if name == "used":
            assert fetched.find("old") is not None  # which is noted, as it was long ago
    assert fetched.find("old") is not None
    assert fetched.find("used") is None
    assert fetched.find("new") is not None
    assert fetched.count == 2


def test_what_has_been_tampered_with_is_not_found(fetched: FetchedVoices, tmp_path: Path) -> None:
    fetched.add("anna", CLIP, ".wav")
    (note,) = (tmp_path / "cache" / "names").iterdir()
    for content in (b"../../secret.wav", b"\xff", b"", b"0" * 64 + b".wav"):
        note.write_bytes(content)
        assert fetched.find("anna") is None


def test_a_voice_of_the_folders_or_an_alias_comes_first(fetched: FetchedVoices, tmp_path: Path) -> None:
    (tmp_path / "voices").mkdir()
    (tmp_path / "voices" / "anna.wav").write_bytes(CLIP)
    library = VoiceLibrary([tmp_path / "voices"], aliases={"helper": "support", "nova": "support"}, fetched=fetched)
    for name in ("anna", "support", "helper"):
        fetched.add(name, CLIP, ".wav")
    assert library.find("anna").kind is VoiceKind.FILE
    assert library.find("ANNA").kind is VoiceKind.FILE
    assert resolved(library, "support.wav") == "support"
    assert resolved(library, "nova") == "support"
    assert [voice.id for voice in library.list()] == ["anna"]  # lists show what lies in the folders
    assert resolved(library, None) == "anna"


def test_what_may_be_fetched(fetched: FetchedVoices, tmp_path: Path) -> None:
    library = VoiceLibrary(
        [tmp_path], rules=VoiceRules(default="helper"), aliases={"alloy": "beth", "x": "a b"}, fetched=fetched
    )

    def ids(name: str | None) -> list[str]:
        return library.fetchable(VoiceRef(name=name))

    assert ids("anna") == ids("anna.wav") == ["anna"]
    assert ids(None) == ids(" ") == ["helper"]
    assert ids("alloy") == ["beth"]
    assert ids("x") == ["x"]
    for name in (
        "nova",
        "none",
        "NONE",
        "a b",
        "a/b",
        "..",
        "a.b",
        "é",
        "a" * 129,
        "a" * 3000,
        "data:audio/wav;base64,",
    ):
        assert ids(name) == []
    assert library.fetchable(VoiceRef(audio=CLIP)) == []
    assert VoiceLibrary([tmp_path]).fetchable(VoiceRef(name="anna")) == []


@pytest.mark.parametrize("name", sorted(OPENAI_VOICES))
def test_openais_names_are_never_fetched(name: str) -> None:
    assert fetchable(name) is None
    assert fetchable(name.upper()) is None


def test_an_openai_name_whose_alias_may_be_fetched_is_not_the_default(fetched: FetchedVoices, tmp_path: Path) -> None:
    (tmp_path / "anna.wav").write_bytes(CLIP)
    library = VoiceLibrary([tmp_path], aliases={"alloy": "beth"}, fetched=fetched)
    assert resolved(library, "nova") == "anna"
    with pytest.raises(VoiceNotFound):
        library.resolve(VoiceRef(name="alloy"))


def test_a_disk_that_cannot_be_written_loses_no_clip(
    fetched: FetchedVoices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: object, **more: object) -> None:
        raise OSError(30, "Read-only file system")

    fetched.add("anna", CLIP, ".wav")
    (note,) = (tmp_path / "cache" / "names").iterdir()
    os.utime(note, (0, time.time() - 10_000))
    with monkeypatch.context() as patch:
        patch.setattr("os.utime", read_only)
        assert fetched.find("anna") is not None


def test_a_clock_that_was_set_back_leaves_no_clip_the_last_to_leave(fetched: FetchedVoices, tmp_path: Path) -> None:
    fetched.add("future", CLIP, ".wav")
    (note,) = (tmp_path / "cache" / "names").iterdir()
    os.utime(note, (0, time.time() + 1_000_000))
    assert fetched.find("future") is not None
    assert note.stat().st_mtime < time.time() + 10
