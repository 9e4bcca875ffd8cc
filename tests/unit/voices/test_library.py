"""Listing voices and finding them by name."""

from __future__ import annotations

import base64
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from echo.errors import BadRequest, TooLarge, VoiceNotFound
from echo.types import VoiceRef
from echo.voices import OPENAI_VOICES, ClipVoice, Voice, VoiceKind, VoiceLibrary, VoiceRules
from tests.unit.voices.voice_files import level, touch_clips

steady = settings(derandomize=True, deadline=None, max_examples=200)


def ids(library: VoiceLibrary) -> list[str]:
    return [voice.id for voice in library.list()]


def resolved(library: VoiceLibrary, name: str | None) -> str | None:
    voice = library.resolve(VoiceRef(name=name))
    assert voice is None or isinstance(voice, Voice)
    return voice.id if voice else None


def test_every_audio_suffix_in_any_case_is_a_voice_and_nothing_else_is(tmp_path: Path) -> None:
    touch_clips(tmp_path, "a.wav", "b.mp3", "c.m4a", "d.ogg", "e.flac", "f.webm", "g.aac", "h.opus", "i.WAV")
    touch_clips(tmp_path, "readme.md", "voices.json", "j.wav.tmp", "k.tmp.wav", "l.part", ".m.wav", "n", "o.txt")
    assert ids(VoiceLibrary([tmp_path])) == list("abcdefghi")


def test_the_list_is_sorted_ignoring_case(tmp_path: Path) -> None:
    touch_clips(tmp_path, "b.wav", "A.wav", "C.wav", "a.wav")
    assert ids(VoiceLibrary([tmp_path])) == ["A", "a", "b", "C"]


def test_a_folder_of_clips_is_one_voice_with_its_files_in_name_order(tmp_path: Path) -> None:
    touch_clips(
        tmp_path, "nord/2.wav", "nord/1.mp3", "nord/notes.txt", "nord/.x.wav", "nord/y.tmp.wav", "nord/sub/3.wav"
    )
    (tmp_path / "empty").mkdir()
    touch_clips(tmp_path, "copying.tmp/1.wav", ".hidden/1.wav")
    (voice,) = VoiceLibrary([tmp_path]).list()
    assert (voice.id, voice.kind) == ("nord", VoiceKind.FOLDER)
    assert [file.name for file in voice.files] == ["1.mp3", "2.wav"]


def test_folders_are_no_voices_where_that_is_switched_off(tmp_path: Path) -> None:
    touch_clips(tmp_path, "nord/1.wav", "anna.wav")
    assert ids(VoiceLibrary([tmp_path], rules=VoiceRules(folders=False))) == ["anna"]


def test_of_one_stem_the_folder_comes_first_and_all_others_stay_reachable_by_file_name(tmp_path: Path) -> None:
    touch_clips(tmp_path, "anna.wav", "anna.mp3", "anna/1.wav", "beth.opus", "beth.wav")
    library = VoiceLibrary([tmp_path])
    assert ids(library) == ["anna", "anna.mp3", "anna.wav", "beth", "beth.opus"]
    assert library.find("anna").kind is VoiceKind.FOLDER
    assert library.find("anna.wav").files == (tmp_path / "anna.wav",)
    assert library.find("beth").files == (tmp_path / "beth.wav",)
    assert library.find("beth.opus").files == (tmp_path / "beth.opus",)


def test_the_first_folder_wins(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    touch_clips(first, "anna.mp3")
    touch_clips(second, "anna.wav", "beth.wav")
    library = VoiceLibrary([first, tmp_path / "missing", second])
    assert ids(library) == ["anna", "beth"]
    assert library.find("anna").files == (first / "anna.mp3",)


def test_a_voices_folder_inside_another_is_no_voice(tmp_path: Path) -> None:
    touch_clips(tmp_path, "clones/a.wav", "b.wav")
    assert ids(VoiceLibrary([tmp_path, tmp_path / "clones"])) == ["a", "b"]


def test_a_clone_is_listed_by_its_id_and_counts_before_other_voices_of_that_id(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    touch_clips(first, "ws__Anna.flac", "foo.clone.wav")
    touch_clips(second, "ws__Anna.clone.wav")
    library = VoiceLibrary([first, second])
    assert ids(library) == ["foo.clone", "ws__Anna"]
    voice = library.get("ws__Anna")
    assert (voice.kind, voice.workspace, voice.name) == (VoiceKind.CLONE, "ws", "Anna")
    assert voice.files == (second / "ws__Anna.clone.wav",)
    assert library.get("foo.clone").kind is VoiceKind.FILE


def test_files_show_at_once_when_they_are_added_renamed_or_removed(tmp_path: Path) -> None:
    library = VoiceLibrary([tmp_path / "voices"])
    assert ids(library) == []
    touch_clips(tmp_path / "voices", "anna.wav")
    assert ids(library) == ["anna"]
    (tmp_path / "voices/anna.wav").rename(tmp_path / "voices/beth.wav")
    assert ids(library) == ["beth"]
    assert library.find("beth").files == (tmp_path / "voices/beth.wav",)
    with pytest.raises(VoiceNotFound):
        library.find("anna")
    (tmp_path / "voices/beth.wav").unlink()
    assert ids(library) == []


def test_metadata_beside_a_voice_is_shown(tmp_path: Path) -> None:
    touch_clips(tmp_path, "anna.wav", "nord/1.wav")
    (tmp_path / "anna.json").write_text('{"display_name": "Anna B.", "description": "calm", "tags": ["x", 1]}')
    (tmp_path / "nord.json").write_text('{"lang": "EN_US"}')
    anna, nord = VoiceLibrary([tmp_path]).list()
    assert (anna.id, anna.name, anna.description, anna.tags, anna.lang) == ("anna", "Anna B.", "calm", ("x",), "")
    assert (nord.name, nord.lang) == ("nord", "EN_US")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b'"x"', b"\xff\xfe", b'{"description": 5, "tags": "x"}', b"[" * 60_000]
)
def test_damaged_metadata_counts_as_none(tmp_path: Path, content: bytes) -> None:
    touch_clips(tmp_path, "anna.wav")
    (tmp_path / "anna.json").write_bytes(content)
    (voice,) = VoiceLibrary([tmp_path]).list()
    assert (voice.name, voice.description, voice.tags) == ("anna", "", ())


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("Female Nord", "Female Nord"),  # exact
        ("female nord", "Female Nord"),  # case
        ("FEMALENORD", "Female Nord"),  # case and spaces
        ("Anna", "Anna"),
        ("anna", "anna"),
        ("ANNA", "Anna"),  # the first in the list's order
        ("zoë.flac", "Zoë"),  # file name
        ("ZOE\u0308", "Zoë"),
        ("Zoë.wav", "Zoë"),  # another suffix than it has
        ("female nord.MP3", "Female Nord"),
        ("narrator", "Female Nord"),  # alias
        ("The  Narrator", "Female Nord"),
    ],
)
def test_names_are_found_in_the_promised_order(tmp_path: Path, name: str, found: str) -> None:
    touch_clips(tmp_path, "Female Nord.mp3", "Anna.wav", "anna.wav", "Zoë.flac")
    library = VoiceLibrary([tmp_path], aliases={"narrator": "Female Nord", "the narrator": "female nord"})
    assert library.find(name).id == found


def test_a_real_voice_wins_over_an_alias_and_aliases_do_not_chain(tmp_path: Path) -> None:
    touch_clips(tmp_path, "anna.wav", "beth.wav")
    library = VoiceLibrary([tmp_path], aliases={"anna": "beth", "x": "y", "y": "beth"})
    assert library.find("anna").id == "anna"
    assert library.find("y").id == "beth"
    with pytest.raises(VoiceNotFound, match="'x'"):
        library.find("x")


def test_a_clone_is_found_by_its_short_name_within_its_workspace_only(tmp_path: Path) -> None:
    touch_clips(tmp_path, "ws__Lydia.clone.wav", "other__Lydia.clone.wav", "Lydia.wav")
    library = VoiceLibrary([tmp_path])
    assert library.find("Lydia", workspace="ws").id == "ws__Lydia"
    assert library.find("lydia", workspace="w/s").id == "ws__Lydia"
    assert library.find("ws__Lydia", workspace="ws").id == "ws__Lydia"
    assert library.find("Lydia", workspace="nobody").id == "Lydia"
    assert library.find("Lydia").id == "Lydia"


@pytest.mark.parametrize("name", [*sorted(OPENAI_VOICES), "Alloy"])
def test_openai_names_are_the_default_voice(tmp_path: Path, name: str) -> None:
    touch_clips(tmp_path, "anna.wav", "beth.wav")
    assert resolved(VoiceLibrary([tmp_path]), name) == "anna"
    assert resolved(VoiceLibrary([tmp_path], rules=VoiceRules(default="beth")), name) == "beth"
    assert resolved(VoiceLibrary([tmp_path], rules=VoiceRules(default="none")), name) is None


def test_an_openai_name_is_its_alias_or_the_real_voice_of_that_name(tmp_path: Path) -> None:
    touch_clips(tmp_path, "anna.wav", "beth.wav", "nova.wav")
    library = VoiceLibrary([tmp_path], aliases={"alloy": "beth", "nova": "beth", "echo": "gone", "onyx": "none"})
    assert resolved(library, "alloy") == "beth"
    assert resolved(library, "nova") == "nova"
    assert resolved(library, "echo") == "anna"
    assert resolved(library, "onyx") is None


def test_no_name_is_the_default_voice(tmp_path: Path) -> None:
    touch_clips(tmp_path, "anna.wav", "a__a.clone.wav")
    for name in (None, "", "  "):
        assert resolved(VoiceLibrary([tmp_path]), name) == "anna"  # not the clone, though it is listed first
    assert resolved(VoiceLibrary([tmp_path], rules=VoiceRules(default="none")), None) is None
    assert resolved(VoiceLibrary([tmp_path / "missing"]), None) is None
    with pytest.raises(VoiceNotFound, match="'gone'"):
        resolved(VoiceLibrary([tmp_path], rules=VoiceRules(default="gone")), None)


def test_none_is_no_reference_unless_a_voice_has_that_name(tmp_path: Path) -> None:
    library = VoiceLibrary([tmp_path], aliases={"nobody": "none"})
    assert resolved(library, "none") is None
    assert resolved(library, "None") is None
    assert resolved(library, "nobody") is None
    touch_clips(tmp_path, "none.wav")
    assert resolved(library, "none") == "none"


def test_audio_may_stand_in_for_a_name(tmp_path: Path) -> None:
    library = VoiceLibrary([tmp_path], rules=VoiceRules(max_inline_bytes=40_000))
    clip = level(1000)
    assert library.resolve(VoiceRef(audio=clip)) == ClipVoice(clip)
    assert library.resolve(VoiceRef(name=base64.b64encode(clip).decode())) == ClipVoice(clip)
    with pytest.raises(TooLarge):
        library.resolve(VoiceRef(audio=level(1000, seconds=1)))
    with pytest.raises(BadRequest):
        library.resolve(VoiceRef(audio=b"x" * 2000))
    with pytest.raises(BadRequest):
        library.resolve(VoiceRef(audio=clip[:500]))


HOSTILE = [
    "../outside",
    "../outside.wav",
    "..",
    ".",
    "/etc/passwd",
    "voices/../../outside",
    "..\\outside",
    "anna.wav\x00.txt",
    "anna\x00",
    "anna\n",
    "\ud800",
    "%2e%2e/outside",
    "．．／outside",
    "\u2215outside",
    "CON",
    "outside",
    "linked",
    "linked folder",
    "secret",
    "x" * 256,
    "x" * 1300,
    "../" * 100_000,
    "anna.wav/",
    "./anna",
    "~/anna",
    "file:anna.wav",
    "*",
    "anna*",
]


@pytest.fixture
def guarded(tmp_path: Path) -> VoiceLibrary:
    """A voices folder beside a forbidden file that links try to reach."""
    touch_clips(tmp_path, "outside.wav", "elsewhere/1.wav", "voices/anna.wav", "voices/secret.txt", "voices/nord/1.wav")
    voices = tmp_path / "voices"
    (voices / "linked.wav").symlink_to(tmp_path / "outside.wav")
    (voices / "linked folder").symlink_to(tmp_path / "elsewhere")
    (voices / "up").symlink_to(tmp_path)
    (voices / "self").symlink_to(voices)
    (voices / "loop.wav").symlink_to(voices / "loop.wav")
    (voices / "broken.wav").symlink_to(voices / "gone.wav")
    (voices / "secret.wav").symlink_to(voices / "secret.txt")
    (voices / "nord/2.wav").symlink_to(tmp_path / "outside.wav")
    (voices / "alias.wav").symlink_to(voices / "anna.wav")
    os.mkfifo(voices / "pipe.wav")
    return VoiceLibrary([voices])


def test_links_out_of_the_folders_and_to_other_files_are_not_listed(guarded: VoiceLibrary) -> None:
    assert ids(guarded) == ["alias", "anna", "nord"]
    assert [file.name for file in guarded.get("nord").files] == ["1.wav"]


def test_a_link_to_the_voices_folder_itself_may_be_configured(tmp_path: Path) -> None:
    touch_clips(tmp_path, "real/anna.wav")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert ids(VoiceLibrary([tmp_path / "link"])) == ["anna"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_unknown_voices_like_any_other(guarded: VoiceLibrary, name: str) -> None:
    with pytest.raises(VoiceNotFound) as unknown:
        guarded.resolve(VoiceRef(name="nobody"))
    with pytest.raises(VoiceNotFound) as hostile:
        guarded.resolve(VoiceRef(name=name))
    said = hostile.value.message
    assert said.partition("'")[0] == unknown.value.message.partition("'")[0]
    assert said.rpartition("'")[2] == unknown.value.message.rpartition("'")[2]
    assert (hostile.value.code, hostile.value.param) == ("voice_not_found", "voice")


class _Opened:
    """Records what this thread opens or lists while it is watched."""

    def __init__(self) -> None:
        self.watching = 0
        self.paths: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[object, ...]) -> None:
        if (
            self.watching == threading.get_ident()
            and event in ("open", "os.scandir", "os.listdir")
            and isinstance(args[0], str | os.PathLike)
        ):
            self.paths.append(os.path.realpath(os.fspath(args[0])))

    @contextmanager
    def watch(self) -> Iterator[list[str]]:
        self.paths = []
        self.watching = threading.get_ident()
        try:
            yield self.paths
        finally:
            self.watching = 0


@pytest.fixture(scope="module")
def opened() -> _Opened:
    return _Opened()


@pytest.fixture(scope="module")
def shared_library() -> Iterator[VoiceLibrary]:
    with tempfile.TemporaryDirectory() as name:
        base = Path(name).resolve()
        touch_clips(base, "outside.wav", "voices/anna.wav", "voices/nord/1.wav", "voices/ws__x.clone.wav")
        (base / "voices/link.wav").symlink_to(base / "outside.wav")
        yield VoiceLibrary([base / "voices"], aliases={"up": "../outside"})


@pytest.mark.slow
@steady
@given(
    st.text(max_size=40)
    | st.sampled_from(HOSTILE)
    | st.lists(st.sampled_from(["..", "/", "\\", "anna", "nord", "1.wav", "\0", ".", "voices", "outside"])).map("".join)
)
@example("up")
def test_no_name_makes_the_library_open_anything_outside(
    shared_library: VoiceLibrary, opened: _Opened, name: str
) -> None:
    root = shared_library.folders[0]
    with opened.watch() as paths:
        try:
            voice = shared_library.resolve(VoiceRef(name=name))
        except VoiceNotFound:
            voice = None
        with suppress(VoiceNotFound):
            shared_library.find(name, workspace=name)
    assert paths, "the folder is looked into on every call"
    assert all(Path(path).is_relative_to(root) for path in paths)
    if isinstance(voice, Voice):
        assert all(file.resolve().is_relative_to(root) for file in voice.files)


@pytest.mark.slow
@steady
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=20), max_size=5))
def test_every_listed_voice_is_found_by_its_id(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            Path(folder, f"{name}.wav").write_bytes(b"")
        library = VoiceLibrary([Path(folder)])
        for voice in library.list():
            assert library.find(voice.id) == library.get(voice.id) == voice
