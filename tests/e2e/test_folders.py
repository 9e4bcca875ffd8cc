"""Folders that cannot be written to, or are not there for a while, as a disk that was remounted."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.contract.cloning import clip
from tests.e2e.server_process import QUICK, ServerProcess
from tests.processes import PATIENCE_S, copy_bundled_voices

WRITABLE, READ_ONLY = 0o755, 0o555


class WithoutRights(ServerProcess):
    """``without_rights.py`` in place of ``api_server.py``."""

    program = Path(__file__).with_name("without_rights.py")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("folders")
    made = {name: root / name for name in ("voices", "jobs", "log")}
    for folder in made.values():
        folder.mkdir()
    copy_bundled_voices(made["voices"])
    return made


@pytest.fixture(scope="module")
def server(folders: dict[str, Path]) -> Iterator[ServerProcess]:
    settings = {
        "ECHO_VOICES_DIR": folders["voices"],
        "ECHO_JOBS_DIR": folders["jobs"],
        "ECHO_INWORLD_CLONE_ENABLED": 1,
    }
    with WithoutRights(folders["log"], **settings, **QUICK) as started:
        yield started.wait_ready()


def clone(server: ServerProcess) -> httpx.Response:
    samples = [{"audioData": base64.b64encode(clip()).decode()}]
    body = {"displayName": "New", "langCode": "EN_US", "voiceSamples": samples}
    return httpx.post(f"{server.url}/voices/v1/voices:clone", json=body, timeout=PATIENCE_S)


def listed(server: ServerProcess) -> list[str]:
    return [voice["id"] for voice in server.get("/v1/voices").raise_for_status().json()["data"]]


def test_folders_that_cannot_be_written_to_stop_only_what_writes(
    server: ServerProcess, folders: dict[str, Path]
) -> None:
    try:
        for name in ("voices", "jobs"):
            folders[name].chmod(READ_ONLY)
        assert server.speak("As always.", voice="tiny_beth").status_code == 200
        refused = clone(server)
        job = httpx.post(f"{server.url}/v1/audio/jobs", json={"input": "A book."}, timeout=PATIENCE_S)
        assert (refused.status_code, job.status_code) == (500, 500)
        assert "could not store" in refused.text
        assert job.json()["error"]["code"] == "storage_failed"
        assert not any(str(folder) in answer.text for folder in folders.values() for answer in (refused, job))
        assert "tiny_anna" in listed(server)
        assert server.get("/ready").status_code == 200
    finally:
        for name in ("voices", "jobs"):
            folders[name].chmod(WRITABLE)
    assert "Traceback" not in server.log
    assert clone(server).status_code == 200  # at once, without a restart


def test_a_folder_that_goes_and_comes_back_is_served_again(server: ServerProcess, folders: dict[str, Path]) -> None:
    before = listed(server)
    wanted = server.speak("As always.", voice="tiny_anna").raise_for_status().content
    away = folders["voices"].rename(folders["voices"].with_name("away"))
    try:
        assert listed(server) == []
        gone = server.speak("As always.", voice="tiny_anna")
        assert (gone.status_code, gone.json()["error"]["code"]) == (400, "voice_not_found")
        assert server.speak("With no voice at all.").status_code == 200
        assert server.get("/ready").status_code == 200
    finally:
        away.rename(folders["voices"])
    assert listed(server) == before
    assert server.speak("As always.", voice="tiny_anna").content == wanted
    assert "Traceback" not in server.log
