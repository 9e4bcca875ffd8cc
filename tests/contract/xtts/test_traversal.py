"""No field of an XTTS request gets at anything outside the voices folder, or writes anywhere but to a clone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.contract.cloning import HOSTILE_NAMES, changed, clip, snapshot
from tests.contract.serving import Served


@pytest.fixture
def client(cloning: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=cloning.url, verify=False) as opened:
        yield opened


def test_no_field_of_an_xtts_request_reaches_outside(client: httpx.Client, home: Path) -> None:
    before = snapshot(home)
    for name in HOSTILE_NAMES:
        name = name.replace("{home}", str(home))
        body = {"text": "Hi", "speaker_wav": name, "save_path": name}
        base = name.replace("\\", "/").rsplit("/", 1)[-1]
        found = base == "anna"
        for path in ("/tts_to_audio/", "/tts_stream"):
            answer = client.post(path, json=body)
            assert answer.status_code == (200 if found else 400 if not name else 404), name
            assert "outside" not in answer.headers.get("content-disposition", "") or found
        query = client.get("/tts_stream/", params=body)
        assert query.status_code == (200 if found else 404)
    assert changed(before, snapshot(home)) == set()


def test_no_part_of_an_xtts_upload_reaches_outside(client: httpx.Client, home: Path) -> None:
    for name in HOSTILE_NAMES:
        name = name.replace("{home}", str(home))
        before = snapshot(home)
        answer = client.post(
            "/create_and_store_latents",
            data={"speaker_name": name, "language": name[:32]},
            files={"wav_file": (name.replace("\x00", "%00"), clip(), "audio/wav")},
        )
        assert answer.status_code in (200, 400)
        assert all(path.startswith("voices/default__") for path in changed(before, snapshot(home)))
