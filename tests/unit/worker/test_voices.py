"""Which file a ``speaker_voice`` is, and which it never is."""

from __future__ import annotations

from pathlib import Path

import pytest

from echo.errors import BadRequest
from tests.unit.voices.voice_files import touch_clips
from worker.voices import JobVoices


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "voices"
    inside.mkdir()
    touch_clips(inside, "anna.wav", "EARS p004 freeform.mp3", "sub/bob.OPUS", "sub/deep/cy.flac", "clips/2.wav")
    touch_clips(inside, "clips/1.mp3", "clips/notes.txt", "notes.txt", "new.wav.tmp", "new.tmp.wav", ".hidden.wav")
    touch_clips(tmp_path, "outside.wav", "secret.txt")
    return inside


def found(folder: Path, name: str) -> list[str]:
    ref = JobVoices([folder]).find(name)
    assert ref.name == name
    return [str(file.relative_to(folder)) for file in ref.files]


def refusal(folder: Path, name: str) -> str:
    with pytest.raises(BadRequest) as refused:
        JobVoices([folder]).find(name)
    return refused.value.message


@pytest.mark.parametrize("name", ["anna.wav", "EARS p004 freeform.mp3", "sub/bob.OPUS", "sub/deep/cy.flac"])
def test_a_clip_is_named_by_its_path_inside_the_folder(folder: Path, name: str) -> None:
    assert found(folder, name) == [name]


def test_a_folder_of_clips_is_one_voice_in_name_order(folder: Path) -> None:
    assert found(folder, "clips") == ["clips/1.mp3", "clips/2.wav"]
    with pytest.raises(BadRequest):
        JobVoices([folder], clip_folders=False).find("clips")


@pytest.mark.parametrize(
    "name",
    [
        *("ANNA.wav", "../outside.wav", "sub/../anna.wav", "/etc/x.wav", "./anna.wav", "sub//bob.OPUS", "new.tmp.wav"),
        *(".hidden.wav", "a\0.wav", "anna.wav\n.wav", "sub\\bob.wav", "x" * 300 + ".wav", "nobody.wav"),
        "anna.wav/x.wav",
    ],
)
def test_no_name_reaches_anything_else(folder: Path, name: str) -> None:
    assert refusal(folder, name).startswith("speaker_voice '")
    assert refusal(folder, name).endswith("' not found.")


@pytest.mark.parametrize("name", ["notes.txt", "new.wav.tmp", "anna", "../secret.txt", "..", ".", "sub", "anna.wav/"])
def test_other_extensions_are_refused_in_the_old_words(folder: Path, name: str) -> None:
    (folder / "sub" / "bob.OPUS").unlink()
    assert refusal(folder, name).startswith("Unsupported speaker_voice extension '")


def test_links_count_as_what_they_lead_to(folder: Path) -> None:
    (folder / "same.wav").symlink_to("anna.wav")
    (folder / "out.wav").symlink_to("../outside.wav")
    (folder / "text.wav").symlink_to("notes.txt")
    (folder / "loop.wav").symlink_to("loop.wav")
    (folder / "up").symlink_to("..")
    assert found(folder, "same.wav") == ["anna.wav"]
    for name in ("out.wav", "text.wav", "loop.wav", "up/outside.wav"):
        assert refusal(folder, name).endswith("not found.")
    assert JobVoices([folder]).count() == 7


def test_of_several_folders_the_first_that_has_it_counts(folder: Path, tmp_path: Path) -> None:
    touch_clips(tmp_path / "more", "anna.wav", "dora.wav")
    voices = JobVoices([folder, tmp_path / "more"])
    assert voices.find("anna.wav").files == (folder / "anna.wav",)
    assert voices.find("dora.wav").files == (tmp_path / "more" / "dora.wav",)


def test_a_name_in_a_message_is_short_and_printable(folder: Path) -> None:
    assert refusal(folder, "\x1b[31m" + "x" * 5000 + ".wav") == f"speaker_voice '[31m{'x' * 124}' not found."
