"""HEAD where people use it, and what is looked at before a body is read."""

from __future__ import annotations

import pytest

from tests.attack.raw import Raw, ask, request
from tests.contract.serving import Served


@pytest.mark.parametrize("path", ["/", "/health", "/ready", "/metrics", "/v1/models", "/v1/voices", "/speakers_list"])
def test_head_is_what_get_would_answer(server: Served, path: str) -> None:
    with Raw(server.port) as connection:
        head = connection.ask(request("HEAD", path), "HEAD")
        get = connection.ask(request("GET", path))
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]


def test_head_speaks_nothing(server: Served) -> None:
    answer = ask(server.port, request("HEAD", "/tts_stream?text=hello&speaker_wav=anna"), "HEAD")
    assert answer.status == 405
    assert ask(server.port, request("HEAD", "/v1/audio/speech"), "HEAD").status == 405
    assert not server.script.spoken


@pytest.mark.parametrize("path", ["/voices/v1/voices/anna", "/voices/v1/workspaces/w/voices/anna"])
def test_patch_looks_at_the_switch_before_the_body(server: Served, path: str) -> None:
    with Raw(server.port) as connection:
        connection.send(request("PATCH", path, None, "Content-Length: 1000"))
        assert connection.answer().status == 403
