"""Cloning voices, and everything that cloning must not be able to touch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from echo.errors import BadRequest, EchoError, FeatureDisabled, Forbidden, QuotaExceeded, TooLarge, VoiceNotFound
from echo.types import Audio
from echo.voices import CloneStore, SamplesRejected, VoiceKind, VoiceLibrary
from echo.voices.clones import CloneQuota
from tests.unit.voices.voice_files import clone_level_of, encoded, level, read_voice, tone, touch_clips, wav_bytes

steady = settings(derandomize=True, deadline=None, max_examples=120)

SECOND = 44_100
SPEECH = wav_bytes(tone(6.0))


def store_in(folder: Path, *, max_bytes: int = 10**8, enabled: bool = True, **more: Any) -> CloneStore:
    return CloneStore(VoiceLibrary([folder]), folder, max_bytes=max_bytes, enabled=enabled, **more)


@pytest.fixture
def library(tmp_path: Path) -> VoiceLibrary:
    return VoiceLibrary([tmp_path / "voices"])


@pytest.fixture
def store(library: VoiceLibrary) -> CloneStore:
    return CloneStore(library, library.folders[0], max_bytes=10**8, enabled=True)


def test_a_clone_can_be_used_at_once(store: CloneStore, library: VoiceLibrary) -> None:
    voice, reports = store.publish("ws", "Lydia", [SPEECH], lang="EN_US", description="housecarl", tags=["nord", "f"])
    assert (voice.id, voice.kind, voice.workspace, voice.name) == ("ws__Lydia", VoiceKind.CLONE, "ws", "Lydia")
    assert (voice.lang, voice.description, voice.tags) == ("EN_US", "housecarl", ("nord", "f"))
    assert [(report.errors, report.warnings) for report in reports] == [((), ())]
    assert library.list() == [voice]
    assert library.find("ws__lydia") == library.find("Lydia", workspace="ws") == voice
    audio = read_voice(voice)
    assert np.abs(audio - tone(6.0)).max() < 1e-3


def test_only_the_clone_and_its_description_are_left_in_the_folder(store: CloneStore, library: VoiceLibrary) -> None:
    store.publish("ws", "Lydia", [SPEECH])
    names = sorted(path.name for path in library.folders[0].iterdir())
    assert names == ["ws__Lydia.clone.json", "ws__Lydia.clone.wav"]


def test_names_are_reduced_but_shown_as_given(store: CloneStore) -> None:
    voice, _ = store.publish("my/../space", "  Lydia (Whiterun)! ", [SPEECH])
    assert voice.id == "myspace__Lydia Whiterun"
    assert voice.name == "Lydia (Whiterun)!"


def test_cloning_an_existing_name_replaces_audio_and_description(store: CloneStore, library: VoiceLibrary) -> None:
    store.publish("ws", "a", [level(1000)], description="old", tags=["old"])
    voice, _ = store.publish("ws", "a", [level(2000)])
    assert library.list() == [voice]
    assert clone_level_of(read_voice(voice)) == 2000
    assert (voice.description, voice.tags) == ("", ())


def test_the_same_upload_gives_the_same_file(store: CloneStore) -> None:
    first = store.publish("ws", "a", [SPEECH])[0].files[0].read_bytes()
    assert store.publish("ws", "a", [SPEECH])[0].files[0].read_bytes() == first


def test_several_samples_are_joined_in_order(store: CloneStore) -> None:
    voice, reports = store.publish("ws", "a", [level(1000, 0.5), encoded(".mp3", tone(0.5, rate=48_000)), level(3000)])
    audio = read_voice(voice)
    assert len(reports) == 3
    assert clone_level_of(audio[: SECOND // 2]) == 1000
    assert not audio[SECOND // 2 : SECOND * 3 // 2].any()
    assert clone_level_of(audio[-8820:]) == 3000


def test_remarks_about_a_sample_do_not_stop_the_cloning(store: CloneStore) -> None:
    _, (short, quiet) = store.publish("ws", "a", [level(9000, 1.0), wav_bytes(tone(6.0, level=0.02))])
    assert [len(short.warnings), len(quiet.warnings)] == [1, 1]
    assert "short" in short.warnings[0]
    assert "quiet" in quiet.warnings[0]


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        (encoded(".flac", tone(rate=48_000)), "WAV and MP3"),
        (encoded(".m4a", tone(rate=48_000)), "WAV and MP3"),
        (b"#!/bin/sh\n" * 200, "WAV and MP3"),
        (b"", "WAV and MP3"),
        (b"RIFF\x00\x00\x00\x00WAVE" + b"x" * 2000, "decoded"),
        (b"ID3\x03\x00\x00\x00\x00\x00\x00" + b"x" * 2000, "decoded"),
        (wav_bytes(np.zeros(SECOND, np.float32)), "silent"),
        (level(1000, 0.1), "short"),
    ],
)
def test_an_unusable_sample_is_reported_and_nothing_is_stored(
    store: CloneStore, library: VoiceLibrary, sample: bytes, reason: str
) -> None:
    with pytest.raises(SamplesRejected) as caught:
        store.publish("ws", "a", [SPEECH, sample])
    good, bad = caught.value.reports
    assert good.errors == ()
    assert reason in bad.errors[0]
    assert "sample 2" in caught.value.message
    assert caught.value.param == "voiceSamples"
    assert not library.folders[0].exists()


def test_a_failed_replacement_leaves_the_old_voice(store: CloneStore) -> None:
    voice, _ = store.publish("ws", "a", [SPEECH], description="kept")
    before = voice.files[0].read_bytes()
    with pytest.raises(SamplesRejected):
        store.publish("ws", "a", [b"junk"])
    assert voice.files[0].read_bytes() == before


def test_the_size_limit_is_for_all_samples_together(tmp_path: Path) -> None:
    clip = level(1000)
    store = store_in(tmp_path, max_bytes=2 * len(clip))
    store.publish("ws", "a", [clip, clip])
    with pytest.raises(TooLarge):
        store.publish("ws", "a", [clip, clip, b"x"])


def test_no_samples_is_an_error(store: CloneStore) -> None:
    with pytest.raises(BadRequest) as caught:
        store.publish("ws", "a", [])
    assert caught.value.param == "voiceSamples"


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"description": "x" * 2001}, "description"), ({"tags": ["x"] * 33}, "tags"), ({"tags": ["x" * 65]}, "tags")],
)
def test_descriptions_are_limited(store: CloneStore, fields: dict[str, object], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        store.publish("ws", "a", [SPEECH], **fields)  # type: ignore[arg-type]
    assert caught.value.param == param


@pytest.mark.slow
def test_a_voice_of_more_than_five_minutes_is_cut_with_a_remark(store: CloneStore) -> None:
    long = encoded(".mp3", tone(301.0, rate=16_000), rate=16_000)
    voice, reports = store.publish("ws", "a", [long, SPEECH])
    assert len(read_voice(voice)) == 300 * SECOND
    assert all("five minutes" in report.warnings[0] for report in reports)


def test_everything_is_refused_while_cloning_is_off(tmp_path: Path) -> None:
    voice, _ = store_in(tmp_path).publish("ws", "a", [SPEECH])
    store = store_in(tmp_path, enabled=False)
    calls: list[Callable[[], object]] = [
        lambda: store.publish("ws", "b", [SPEECH]),
        lambda: store.delete(voice.id),
        lambda: store.update(voice.id, description="x"),
    ]
    for call in calls:
        with pytest.raises(FeatureDisabled):
            call()
    assert VoiceLibrary([tmp_path]).list() == [voice]


def test_deleting_removes_the_clone_and_its_description(store: CloneStore, library: VoiceLibrary) -> None:
    store.publish("ws", "a", [SPEECH])
    other, _ = store.publish("ws", "b", [SPEECH])
    store.delete("ws__a")
    assert library.list() == [other]
    assert sorted(path.name for path in library.folders[0].iterdir()) == ["ws__b.clone.json", "ws__b.clone.wav"]
    with pytest.raises(VoiceNotFound):
        store.delete("ws__a")


def test_deleting_needs_the_exact_id(store: CloneStore, library: VoiceLibrary) -> None:
    store.publish("ws", "Anna", [SPEECH])
    for name in ("ws__anna", "Anna", "ws__Anna.clone.wav", "ws__*", "ws__", "*"):
        with pytest.raises(VoiceNotFound):
            store.delete(name)
    assert [voice.id for voice in library.list()] == ["ws__Anna"]


def test_only_the_description_is_updated(store: CloneStore) -> None:
    before, _ = store.publish("ws", "a", [SPEECH], description="old", tags=["t"], lang="EN_US")
    content = before.files[0].read_bytes()
    after = store.update("ws__a", display_name="Anna", description="")
    assert (after.id, after.name, after.description, after.tags, after.lang) == ("ws__a", "Anna", "", ("t",), "EN_US")
    assert store.update("ws__a", tags=[]).tags == ()
    assert before.files[0].read_bytes() == content
    with pytest.raises(BadRequest):
        store.update("ws__a", display_name=" ")


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b'{"description": 1, "tags": [1, "x"]}', b"\xff"])
def test_a_lost_or_damaged_description_costs_nothing_but_the_description(
    store: CloneStore, library: VoiceLibrary, content: bytes | None
) -> None:
    store.publish("ws", "a", [SPEECH], description="old")
    path = library.folders[0] / "ws__a.clone.json"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    (voice,) = library.list()
    assert (voice.id, voice.kind, voice.name, voice.description) == ("ws__a", VoiceKind.CLONE, "a", "")
    assert store.update("ws__a", description="new").description == "new"
    store.delete("ws__a")
    assert library.list() == []


def test_voices_not_made_by_cloning_are_never_changed(store: CloneStore, library: VoiceLibrary) -> None:
    folder = library.folders[0]
    touch_clips(folder, "anna.wav", "ws__bundled.wav", "ws__folder/1.wav", "foo.clone.wav")
    before = snapshot(folder)
    for voice in library.list():
        with pytest.raises(Forbidden):
            store.delete(voice.id)
        with pytest.raises(Forbidden):
            store.update(voice.id, description="x")
    assert snapshot(folder) == before


def test_clones_in_other_folders_belong_to_others(tmp_path: Path) -> None:
    touch_clips(tmp_path / "shipped", "ws__a.clone.wav")
    library = VoiceLibrary([tmp_path / "own", tmp_path / "shipped"])
    store = CloneStore(library, tmp_path / "own", max_bytes=10**8, enabled=True)
    with pytest.raises(Forbidden):
        store.delete("ws__a")
    assert (tmp_path / "shipped/ws__a.clone.wav").exists()


def test_a_clone_stands_before_an_operators_voice_of_its_id_and_never_replaces_it(
    store: CloneStore, library: VoiceLibrary
) -> None:
    own = library.folders[0] / "ws__a.wav"
    own.parent.mkdir()
    own.write_bytes(level(1000))
    store.publish("ws", "a", [level(2000)])
    assert clone_level_of(read_voice(library.find("ws__a"))) == 2000
    store.delete("ws__a")
    assert clone_level_of(read_voice(library.find("ws__a"))) == 1000
    assert own.read_bytes() == level(1000)


def test_a_link_in_a_clones_place_is_replaced_and_not_followed(
    tmp_path: Path, store: CloneStore, library: VoiceLibrary
) -> None:
    outside = tmp_path / "outside.wav"
    outside.write_bytes(b"precious")
    library.folders[0].mkdir()
    for name in ("ws__a.clone.wav", "ws__a.clone.json"):
        (library.folders[0] / name).symlink_to(outside)
    with pytest.raises(VoiceNotFound):
        store.delete("ws__a")
    with pytest.raises(VoiceNotFound):
        store.update("ws__a", description="x")
    store.publish("ws", "a", [SPEECH])
    store.delete("ws__a")
    assert outside.read_bytes() == b"precious"


def test_the_folder_must_be_one_of_the_librarys(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="folder"):
        CloneStore(VoiceLibrary([tmp_path]), tmp_path / "other", max_bytes=1, enabled=True)


def test_a_folder_that_cannot_be_written_is_an_error_without_paths(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = store_in(tmp_path / "file")
    with pytest.raises(EchoError) as caught:
        store.publish("ws", "a", [SPEECH])
    assert caught.value.code == "storage_failed"
    assert str(tmp_path) not in caught.value.message
    assert sorted(tmp_path.iterdir()) == [tmp_path / "file"]


@pytest.mark.slow
def test_readers_meet_the_old_or_the_new_clone_never_a_piece_of_one(store: CloneStore, library: VoiceLibrary) -> None:
    uploads = {1000: [level(1000, 0.3)], 2000: [level(2000, 0.7)]}
    store.publish("ws", "a", uploads[1000])
    done = threading.Event()
    seen: set[tuple[int, int]] = set()
    failures: list[Exception] = []

    def read() -> None:
        try:
            while not done.is_set():
                audio = read_voice(library.find("ws__a"))
                seen.add((clone_level_of(audio), len(audio)))
        except Exception as error:
            failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for turn in range(60):
        store.publish("ws", "a", uploads[2000 if turn % 2 == 0 else 1000])
    done.set()
    for reader in readers:
        reader.join()
    assert failures == []
    assert seen <= {(1000, round(0.3 * SECOND)), (2000, round(0.7 * SECOND))}


# Hostile arguments


def snapshot(folder: Path) -> dict[str, tuple[bytes | str, int]]:
    """Return every path below ``folder`` with content and time of change."""
    found: dict[str, tuple[bytes | str, int]] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        is_plain = path.is_file() and not path.is_symlink()
        content = path.read_bytes() if is_plain else str(path.is_symlink() and os.readlink(path))
        found[str(path.relative_to(folder))] = (content, status.st_ctime_ns if is_plain else 0)
    return found


HOSTILE = [
    "../x",
    "../../x",
    "/etc/x",
    "/",
    "..",
    ".",
    "",
    " ",
    "a/../../x",
    "a\\..\\x",
    "a\x00b",
    "\x00",
    "a\nb",
    "．．／x",
    "a\u2215..\u2215x",
    "a\u29f5x",
    "\u2028",
    "\ud800",
    "a__b",
    "__",
    "____",
    "_",
    "a_",
    "_a",
    "anna",
    "ws__bundled",
    "bundled",
    "nord",
    "CON",
    "NUL.txt",
    "aux",
    ".hidden",
    "...",
    "-rf",
    "~",
    "$HOME",
    "*",
    "x" * 128,
    "x" * 10_000,
    "я" * 200,
    "a" + "\u0301" * 500,
    "a.clone.wav",
    "a.wav",
    "a.json",
    "a.tmp",
    "voices.json",
]
NAMES = st.sampled_from(HOSTILE) | st.text(max_size=30) | st.text(alphabet="a_./\\ \x00-", max_size=12)
TINY = level(1000)


class Guarded:
    """A clones' folder with an operator's files in it, inside a folder that nothing may change."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.folder = base / "voices"
        touch_clips(base, "x.wav", "x", "outside/1.wav", "anna.clone.wav", "a__b.clone.wav")
        touch_clips(self.folder, "anna.wav", "nord/1.wav", "ws__bundled.wav", "a__b.wav", "a__b.json", "voices.json")
        self.library = VoiceLibrary([self.folder])
        self.store = CloneStore(self.library, self.folder, max_bytes=10**6, enabled=True)
        self.before = snapshot(base)

    def check(self) -> None:
        """Assert that only clones differ; then remove them."""
        after = snapshot(self.base)
        for name in after.keys() - self.before.keys():
            path = Path(name)
            assert path.parent == Path("voices")
            assert path.name.endswith((".clone.wav", ".clone.json"))
            assert "__" in path.name
            (self.base / path).unlink()
        assert {name: after[name] for name in self.before} == self.before


@pytest.fixture(scope="module")
def guarded() -> Iterator[Guarded]:
    with tempfile.TemporaryDirectory() as name:
        yield Guarded(Path(name))


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("position", ["workspace", "name", "both"])
def test_hostile_names_make_a_harmless_clone_or_none(guarded: Guarded, name: str, position: str) -> None:
    workspace = "ws" if position == "name" else name
    display_name = "a" if position == "workspace" else name
    refused = None
    try:
        voice, _ = guarded.store.publish(workspace, display_name, [TINY])
    except BadRequest as error:
        refused = error
    else:
        assert voice.files[0].parent == guarded.folder
        assert guarded.library.find(voice.id) == voice
    assert refused is None or refused.param in ("workspace", "displayName")
    guarded.check()


@steady
@given(NAMES, NAMES)
@example("ws", "bundled")
@example("a", "b")
@pytest.mark.slow
def test_publishing_touches_nothing_but_its_clone(guarded: Guarded, workspace: str, name: str) -> None:
    try:
        voice, _ = guarded.store.publish(
            workspace, name, [TINY], description=name[:99], tags=[workspace[:60]], lang="x"
        )
    except BadRequest:
        pass
    else:
        assert voice.id.partition("__")[0] == voice.workspace
        guarded.store.delete(voice.id)
    guarded.check()


@pytest.mark.slow
@steady
@given(NAMES | st.builds("{}__{}".format, NAMES, NAMES))
@example("anna")
@example("ws__bundled")
@example("a__b")
@example("../a__b")
@example("../voices/anna")
def test_deleting_and_updating_touch_nothing_that_was_not_cloned(guarded: Guarded, name: str) -> None:
    with pytest.raises((VoiceNotFound, Forbidden)):
        guarded.store.delete(name)
    with pytest.raises((VoiceNotFound, Forbidden)):
        guarded.store.update(name, display_name="x", description=name[:99])
    guarded.check()


def test_control_characters_do_not_reach_lists(store: CloneStore, library: VoiceLibrary) -> None:
    voice, _ = store.publish("ws", "a\x1b[31m\x00b", [SPEECH], description="one\ntwo\x07", tags=["\u202ex"])
    assert (voice.id, voice.name) == ("ws__a31mb", "a[31mb")
    assert (voice.description, voice.tags) == ("one\ntwo", ("x",))
    stored = json.loads((library.folders[0] / "ws__a31mb.clone.json").read_text())
    assert stored["display_name"] == "a[31mb"


# What clones may take


def test_there_are_only_so_many_clones_and_replacing_one_is_no_more(tmp_path: Path) -> None:
    store = store_in(tmp_path, quota=CloneQuota(count=2))
    for name in "ab":
        store.publish("ws", name, [SPEECH])
    with pytest.raises(QuotaExceeded, match="as many cloned voices as may be \\(2\\)") as caught:
        store.publish("ws", "c", [SPEECH])
    assert (caught.value.code, caught.value.param) == ("quota_exceeded", "displayName")
    store.publish("ws", "a", [wav_bytes(tone(7.0))])
    store.delete("ws__b")
    store.publish("ws", "c", [SPEECH])
    assert sorted(path.name for path in tmp_path.glob("*.wav")) == ["ws__a.clone.wav", "ws__c.clone.wav"]


def test_all_clones_together_take_only_so_many_bytes(tmp_path: Path) -> None:
    store = store_in(tmp_path, quota=CloneQuota(nbytes=2 * 6 * SECOND * 2 + 1000))
    touch_clips(tmp_path, "an operators own.wav")
    for name in "ab":
        store.publish("ws", name, [SPEECH])
    with pytest.raises(QuotaExceeded, match="bytes") as caught:
        store.publish("ws", "c", [SPEECH])
    assert caught.value.param == "voiceSamples"
    with pytest.raises(QuotaExceeded):
        store.publish("ws", "a", [wav_bytes(tone(7.0))])
    store.publish("ws", "a", [wav_bytes(tone(5.0))])
    assert len(list(tmp_path.iterdir())) == 5


def test_a_full_quota_is_told_before_the_samples_are_decoded(tmp_path: Path) -> None:
    def never(data: bytes, demuxer: str, max_seconds: float) -> Audio:
        raise AssertionError("decoded")

    store_in(tmp_path).publish("ws", "a", [SPEECH])
    store = store_in(tmp_path, quota=CloneQuota(count=1), decode=never)
    with pytest.raises(QuotaExceeded):
        store.publish("ws", "b", [SPEECH])


FULL_DISK = """
import resource, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from echo.errors import EchoError
from tests.unit.voices.test_clones import store_in, wav_bytes, tone
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    store_in(Path({folder!r})).publish("ws", "Lydia", [wav_bytes(tone(8.0))], description="new")
except EchoError as error:
    print(error.code, error.message)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files there")
@pytest.mark.parametrize("replaced", [False, True])
def test_a_full_disk_leaves_everything_as_it_was(tmp_path: Path, replaced: bool) -> None:
    """The description fits, the audio does not: a limit on the size of a file stands for a disk that is full."""
    if replaced:
        store_in(tmp_path).publish("ws", "Lydia", [SPEECH], description="old")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    code = FULL_DISK.format(root=str(Path(__file__).resolve().parents[3]), folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "storage_failed The server could not store the change.\n", done.stderr
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("replaced", [False, True])
def test_audio_that_cannot_be_put_in_place_takes_its_description_back(tmp_path: Path, replaced: bool) -> None:
    store = store_in(tmp_path)
    if replaced:
        store.publish("ws", "Lydia", [SPEECH], description="old")
        (tmp_path / "ws__Lydia.clone.wav").unlink()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "ws__Lydia.clone.wav").mkdir()  # no file can be renamed to a folder
    with pytest.raises(EchoError) as caught:
        store.publish("ws", "Lydia", [SPEECH], description="new")
    assert caught.value.code == "storage_failed"
    (tmp_path / "ws__Lydia.clone.wav").rmdir()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
