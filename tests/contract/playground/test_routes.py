"""The page at ``/`` and its files: who gets them, what they may load, and that they are what was vendored."""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from echo.options import EngineOptions
from tests.contract.serving import Serve, Served

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "routes" / "playground" / "page"
#: What Chrome, Firefox and Safari send with a page, and an older one that prefers it by quality.
BROWSERS = [
    "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "text/html;q=0.9",
    "Text/HTML, */*",
]


def get(server: Served, path: str = "/", **headers: str) -> httpx.Response:
    return httpx.get(server.url + path, headers=headers)


def config(answer: httpx.Response) -> dict[str, Any]:
    (content,) = re.findall(r'<meta name="playground" content="([^"]*)">', answer.text)
    found: dict[str, Any] = json.loads(html.unescape(content))
    return found


@pytest.fixture(scope="module")
def files() -> list[str]:
    return [path.relative_to(PAGE).as_posix() for path in PAGE.rglob("*") if path.is_file()]


@pytest.mark.parametrize("accept", BROWSERS)
def test_a_browser_gets_the_page(server: Served, accept: str) -> None:
    answer = get(server, accept=accept)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "Accept" in answer.headers["vary"]
    assert "<title>Echo TTS playground</title>" in answer.text


@pytest.mark.parametrize("accept", ["*/*", "application/json", "text/*;q=0.1, application/json", "text/htmlx"])
def test_everybody_else_gets_the_card(server: Served, accept: str) -> None:
    assert get(server, accept=accept).json()["name"] == "Echo TTS Server"


def test_a_probe_is_answered_as_ever(server: Served) -> None:
    answer = httpx.head(server.url)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")


def test_the_page_may_load_nothing_from_elsewhere(server: Served) -> None:
    first, second = get(server, accept="text/html"), get(server, accept="text/html")
    policies = [answer.headers["content-security-policy"] for answer in (first, second)]
    rules = dict(rule.split(" ", 1) for rule in policies[0].split("; "))
    assert rules["default-src"] == "'self'"
    assert not rules.keys() & {"script-src", "connect-src", "worker-src", "img-src"}
    nonce = re.findall(r"nonce-([\w-]{20,})", policies[0])
    assert rules["style-src"] == f"'self' 'nonce-{nonce[0]}'"
    assert policies[0] != policies[1], "a nonce is used once"
    assert f'content="{nonce[0]}"' in first.text
    assert "{{" not in first.text
    assert "http" not in re.sub(r'content="[^"]*"', "", first.text)


def test_every_file_is_sent_with_its_type_and_asked_for_again(server: Served, files: list[str]) -> None:
    kinds = {"js": "text/javascript", "css": "text/css", "html": "text/html", "svg": "image/svg+xml"}
    with httpx.Client(base_url=server.url) as client:
        for name in files:
            answer = client.get(f"/playground/{name}")
            assert answer.status_code == 200, name
            assert answer.content == (PAGE / name).read_bytes()
            suffix = name.rpartition(".")[2]
            assert answer.headers["content-type"].startswith(kinds.get(suffix, "")), name
            assert answer.headers["x-content-type-options"] == "nosniff"
            again = client.get(f"/playground/{name}", headers={"if-none-match": answer.headers["etag"]})
            assert again.status_code == 304, name


@pytest.mark.parametrize(
    "path", ["nothing.js", "index.html", "../__init__.py", "%2e%2e/__init__.py", "vendor", "..%2f..%2fspeech.py"]
)
def test_nothing_else_is_sent(server: Served, path: str) -> None:
    answer = get(server, f"/playground/{path}")
    assert answer.status_code == 404
    assert answer.json()["error"]["message"]


def test_the_page_knows_what_the_server_allows(server: Served, serve: Serve) -> None:
    told = config(get(server, accept="text/html"))
    assert (told["key"], told["cloning"], told["max_chars"]) == (False, False, 4096)
    other = serve(api_keys=("s3cret",), inworld_clone_enabled=True, max_input_chars=77)
    answer = get(other, accept="text/html")
    told = config(answer)
    assert (told["key"], told["cloning"], told["max_chars"]) == (True, True, 77)
    assert "s3cret" not in answer.text
    assert get(other, "/playground/app.js").status_code == 200, "the key is entered on the page"
    assert get(other, "/v1/voices").status_code == 401


def test_the_options_are_those_that_requests_may_have(server: Served) -> None:
    options = {option["name"]: option for option in config(get(server, accept="text/html"))["options"]}
    assert {"num_steps", "cfg_scale_text", "speaker_kv_scale", "chunking_enabled"} <= options.keys()
    assert not {"guidance_mode", "block_sizes"} & options.keys()
    for name, option in options.items():
        if "maximum" in option:
            EngineOptions.model_validate({name: option["maximum"]})


def test_it_can_be_switched_off(serve: Serve) -> None:
    off = serve(playground=False)
    assert get(off, accept=BROWSERS[0]).json()["name"] == "Echo TTS Server"
    assert get(off, "/playground/app.js").status_code == 404


# -- what is vendored


def checksums() -> Iterator[tuple[str, str]]:
    for line in (PAGE / "vendor/wavesurfer/SHA256SUMS").read_text().splitlines():
        digest, _, name = line.partition("  ")
        yield digest, name


def test_vendored_files_are_as_they_were_published() -> None:
    folder = PAGE / "vendor/wavesurfer"
    told = {name: digest for digest, name in checksums()}
    assert told.keys() == {path.name for path in folder.iterdir()} - {"SHA256SUMS"}
    for name, digest in told.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name
    assert "BSD 3-Clause" in (folder / "LICENSE").read_text()
    assert "wavesurfer.js" in (ROOT / "NOTICE").read_text()
