"""A file is there whole or as it was, whenever writing it is stopped."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from echo.files import atomic_write


def test_a_file_takes_its_place_once_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "new" / "numbers.bin"
    with atomic_write(path) as unfinished:
        unfinished.write_bytes(b"123")
        assert not path.exists()
    assert path.read_bytes() == b"123"
    assert list(path.parent.iterdir()) == [path]


def test_what_was_there_stays_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "numbers.bin"
    path.write_bytes(b"old")

    def stopped() -> None:
        with atomic_write(path) as unfinished:
            unfinished.write_bytes(b"ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_disk_has_a_file_before_its_name_points_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a machine that loses its power may be left with an empty file in the old one's place."""
    done: list[str] = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (done.append("fsync"), sync(file)))
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("replace"), replace(*paths)))
    with atomic_write(tmp_path / "numbers.bin") as unfinished:
        unfinished.write_bytes(b"123")
    assert done == ["fsync", "replace", "fsync"]
