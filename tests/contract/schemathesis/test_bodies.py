"""Whatever is sent to a route that takes a body: it is understood or refused, and never a server error."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.contract.schemathesis.bodies import GOOD, OPENAPI, anything, encoded, raw, spoilt
from tests.contract.serving import PATIENCE_S, Served

ROUTES = sorted(
    (method.upper(), path)
    for path, methods in OPENAPI["paths"].items()
    for method in methods
    if method in ("post", "patch", "put")
)
#: The key that a refusal has, by path; the first that fits.
SHAPES = {
    "/v1/text-to-speech": "detail",
    "/v1/text-to-dialogue": "detail",
    "/v1": "error",
    "/tts/v1": "message",
    "/voices/v1": "message",
    "/calls": "error",
    "/dev": "error",
}
#: What a good body gets where it is not 200: an upload is a form; a voice that is no clone cannot be changed; there is
#: no such call or job; a list is wanted; the voice is in the query; a job is done later.
STATUSES = {"/preload": 422, "/warmup": 422, "/v1/audio/jobs": 202}
#: Uploads, whose bodies are forms.
FORMS = {"/create_and_store_latents", "/v1/audio/voices"}

#: What a call may get: done, or a mistake of the client's that its formats have a status for.
ANSWERS = {200, 202, 400, 403, 404, 413, 422}

few = settings(max_examples=40, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def client(fuzzed_server: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=fuzzed_server.url, timeout=PATIENCE_S, verify=False) as opened:
        yield opened


def call(client: httpx.Client, method: str, path: str, body: bytes, kind: str = "application/json") -> httpx.Response:
    """Send a body and check that the answer is one that the client can make something of."""
    path = path.replace("{voice}", "anna").replace("{voice_id}", "anna").replace("{workspace}", "fuzz")
    answer = client.request(method, path, content=body, headers={"Content-Type": kind})
    assert answer.status_code in ANSWERS, f"{method} {path}: {answer.text}"
    if answer.status_code >= 400:
        family = next((prefix for prefix in SHAPES if f"{path}/".startswith(prefix + "/")), "")
        assert SHAPES.get(family, "detail") in answer.json(), f"{method} {path}"
    return answer


@pytest.mark.parametrize(("method", "path"), ROUTES, ids=[" ".join(route) for route in ROUTES])
def test_a_good_body_is_understood(fuzzed: Served, client: httpx.Client, method: str, path: str) -> None:
    answer = call(client, method, path, encoded(GOOD))
    expected = (
        400
        if path in FORMS
        else 403
        if method == "PATCH"
        else 404
        if path.startswith("/calls") or "{id}" in path
        else 200
    )
    assert answer.status_code == STATUSES.get(path, expected), answer.text


def call_all(client: httpx.Client, body: bytes, kind: str = "application/json") -> None:
    """Send one body to every route: to think of a body takes longer than to send it."""
    for method, path in ROUTES:
        call(client, method, path, body, kind)


@few
@given(body=raw, kind=st.sampled_from(["application/json", "text/plain", "application/x-www-form-urlencoded", ""]))
def test_bytes(fuzzed: Served, client: httpx.Client, body: bytes, kind: str) -> None:
    call_all(client, body, kind)


@few
@given(body=anything)
def test_any_json(fuzzed: Served, client: httpx.Client, body: Any) -> None:
    call_all(client, encoded(body))


@few
@given(body=spoilt)
def test_a_good_body_gone_wrong(fuzzed: Served, client: httpx.Client, body: dict[str, Any]) -> None:
    call_all(client, encoded(body))


@few
@given(body=st.binary(max_size=80), boundary=st.text(st.characters(codec="ascii", categories=["L", "N"]), max_size=10))
def test_a_form_gone_wrong(fuzzed: Served, client: httpx.Client, body: bytes, boundary: str) -> None:
    framed = b"--" + boundary.encode() + b"\r\nContent-Disposition: form-data" + body
    for data in (body, framed, framed + b"\r\n\r\nx\r\n--" + boundary.encode() + b"--\r\n"):
        call(client, "POST", "/create_and_store_latents", data, f"multipart/form-data; boundary={boundary}")
