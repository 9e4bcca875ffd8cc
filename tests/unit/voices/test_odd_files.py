"""Things that lie in a voices folder and are no files: nothing waits for them, and nothing else is lost."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from echo.errors import BadRequest, VoiceNotFound
from echo.types import VoiceRef
from echo.voices import VoiceLibrary
from echo.voices.content import read_file
from echo.voices.files import open_file
from echo.voices.metadata import read_metadata
from tests.unit.voices.voice_files import level, level_of, read_voice

T = TypeVar("T")

pytestmark = pytest.mark.skipif(os.name != "posix", reason="pipes and sockets with names")


def promptly(work: Callable[[], T]) -> T:
    """Run ``work`` in a thread that may stay behind: a test of what must not hang must not hang itself."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive(), "it hangs"
    if errors:
        raise errors[0]
    return results[0]


def pipe(path: Path) -> None:
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.mkdir()


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def two_links(path: Path) -> None:
    path.symlink_to(path.with_suffix(".other.wav").name)
    path.with_suffix(".other.wav").symlink_to(path.name)


def link_to_a_pipe(path: Path) -> None:
    os.mkfifo(path.with_name("pipe.wav"))
    path.symlink_to("pipe.wav")


def dangling(path: Path) -> None:
    path.symlink_to("nothing.wav")


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VoiceLibrary:
    """A folder with one good voice."""
    (tmp_path / "good.wav").write_bytes(level(1000))
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    return VoiceLibrary([tmp_path])


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)


ODD = [pipe, folder, loop, two_links, link_to_a_pipe, dangling, unix_socket]


@pytest.mark.parametrize("make", ODD)
@pytest.mark.parametrize("name", ["odd.wav", "good.json"])
def test_what_is_no_file_is_no_voice_and_no_description(
    library: VoiceLibrary, make: Callable[[Path], None], name: str
) -> None:
    make(library.folders[0] / name)
    assert [voice.id for voice in promptly(library.list)] == ["good"]
    assert level_of(promptly(lambda: read_voice(library.get("good")))) == 1000
    with pytest.raises(VoiceNotFound):
        promptly(lambda: library.resolve(VoiceRef(name="odd")))


@pytest.mark.parametrize("make", ODD)
def test_what_is_no_file_in_a_folder_of_clips_is_left_out(library: VoiceLibrary, make: Callable[[Path], None]) -> None:
    clips = library.folders[0] / "many"
    clips.mkdir()
    (clips / "b.wav").write_bytes(level(2000))
    os.chdir(clips)
    make(clips / "a.wav")
    assert [file.name for file in promptly(lambda: library.get("many")).files] == ["b.wav"]


def test_a_clip_that_becomes_a_pipe_between_listing_and_reading_is_an_error(library: VoiceLibrary) -> None:
    voice = library.get("good")
    path = voice.files[0]
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(BadRequest, match="cannot be read"):
        promptly(lambda: read_voice(voice))
    with pytest.raises(OSError, match="not a file"):
        promptly(lambda: open_file(path))


def test_a_huge_description_is_not_read_and_counts_as_none(library: VoiceLibrary) -> None:
    path = library.folders[0] / "good.json"
    with path.open("wb") as file:
        file.truncate(2**40)  # a file with holes: a terabyte that takes no room
    assert promptly(lambda: read_metadata(path)).display_name == ""
    path.write_text(json.dumps({"display_name": "Good", "more": "x" * 100_000}))
    assert promptly(lambda: library.get("good")).name == "good"


def test_a_clip_of_a_terabyte_is_refused_by_its_size(library: VoiceLibrary) -> None:
    path = library.folders[0] / "huge.wav"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(BadRequest, match="too large"):
        promptly(lambda: read_file(path))


def test_a_file_that_grows_while_it_is_read_is_cut_off(tmp_path: Path) -> None:
    """A recorder that is still writing: without the cut, reading would go on for as long as it writes."""
    path = tmp_path / "growing.wav"
    path.write_bytes(bytes(1000))
    ended = threading.Event()

    def grow() -> None:
        with path.open("ab", buffering=0) as file:
            while not ended.wait(0.0001):
                file.write(bytes(1000))

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        for _ in range(50):
            content = promptly(lambda: read_file(path))
            assert len(content.data) <= path.stat().st_size
    finally:
        ended.set()
        writer.join()
