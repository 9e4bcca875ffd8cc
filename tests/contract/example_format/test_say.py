"""CONTRIBUTING's guide to a wire format holds: the example speaks, and fails in its own shape."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from echo.settings import Settings
from tests.contract.example_format.say import surface
from tests.contract.serving import serving


@pytest.fixture(scope="module")
def client(voices_dir: Path) -> Iterator[httpx.Client]:
    settings = Settings(voices_dir=(str(voices_dir),), api_keys=("secret",))
    with serving(settings, surfaces=[surface(settings)]) as served, httpx.Client(base_url=served.url) as client:
        client.headers["Authorization"] = "Bearer secret"
        yield client


def test_it_speaks(client: httpx.Client) -> None:
    answer = client.post("/say/", json={"words": "Good morning.", "speaker": "bob"})
    assert answer.status_code == 200
    assert (answer.content[:4], answer.headers["X-Audio-Sample-Rate"]) == (b"RIFF", "44100")
    assert struct.unpack_from("<I", answer.content, 40) == (0xFFFFFFFF,)
    assert len(answer.content) > 44_100


@pytest.mark.parametrize(
    ("body", "status", "start"),
    [
        ({"words": ""}, 400, "words: must not be empty"),
        ({"words": "Hi.", "speaker": "nobody"}, 400, "Unknown voice"),
        ({"words": "Hi.", "pace": 9}, 400, "pace: "),
        ({"speaker": "bob"}, 400, "words: this field is required"),
        ([], 400, "The body must be a JSON object"),
    ],
)
def test_failures_have_the_formats_own_shape(client: httpx.Client, body: object, status: int, start: str) -> None:
    answer = client.post("/say", json=body)
    assert answer.status_code == status
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.text.startswith(start), answer.text


def test_keys_and_methods_are_refused_in_that_shape_too(client: httpx.Client) -> None:
    assert client.post("/say", json={}, headers={"Authorization": ""}).headers["content-type"].startswith("text/plain")
    answer = client.get("/say")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")
    assert answer.headers["content-type"].startswith("text/plain")


def test_it_is_in_the_description_of_the_api(client: httpx.Client) -> None:
    assert "/say" in client.get("/openapi.json").json()["paths"]
