import logging
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from echo.errors import TooLarge
from routes.middleware import BodyLimit, RequestLog, TrailingSlash
from routes.paths import longest_prefix


def scope(path: str = "/v1/x", **headers: str) -> Scope:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "headers": raw}


def upload(*parts: bytes) -> Receive:
    left = [{"type": "http.request", "body": part, "more_body": i + 1 < len(parts)} for i, part in enumerate(parts)]

    async def receive() -> Message:
        return left.pop(0) if left else {"type": "http.disconnect"}

    return receive


async def discard(message: Message) -> None:
    pass


async def read_all(scope: Scope, receive: Receive, send: Send) -> None:
    while (message := await receive())["type"] == "http.request" and message["more_body"]:
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize("parts", [[b"x" * 11], [b"x" * 6, b"x" * 5], [b"x"] * 11])
async def test_a_body_without_an_announced_length_is_counted_while_it_is_read(parts: list[bytes]) -> None:
    with pytest.raises(TooLarge, match="at most 10 bytes"):
        await BodyLimit(read_all, 10, {})(scope(), upload(*parts), discard)


async def test_a_body_of_the_limit_passes() -> None:
    await BodyLimit(read_all, 10, {})(scope(content_length="10"), upload(b"x" * 10), discard)


async def test_an_announced_length_is_refused_before_anything_is_read() -> None:
    async def unreachable(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError

    with pytest.raises(TooLarge):
        await BodyLimit(unreachable, 10, {})(scope(content_length="11"), upload(), discard)


async def test_a_path_may_have_a_limit_of_its_own() -> None:
    limit = BodyLimit(read_all, 10, {"/voices/v1": 20})
    await limit(scope("/voices/v1/voices:clone"), upload(b"x" * 20), discard)
    with pytest.raises(TooLarge, match="20"):
        await limit(scope("/voices/v1/voices:clone"), upload(b"x" * 21), discard)
    with pytest.raises(TooLarge, match="10"):
        await limit(scope("/voices/v10"), upload(b"x" * 11), discard)


@pytest.mark.parametrize(
    ("path", "found"), [("/a", 1), ("/a/", 1), ("/a/b", 2), ("/a/b/c", 2), ("/ab", 0), ("/", 0), ("/b", 0)]
)
def test_a_path_belongs_to_its_longest_prefix(path: str, found: int) -> None:
    assert longest_prefix(path, {"/a": 1, "/a/b": 2}, 0) == found


@pytest.mark.parametrize(
    ("path", "routed"), [("/v1/x/", "/v1/x"), ("/v1/x//", "/v1/x"), ("/v1/x", "/v1/x"), ("/", "/"), ("//", "/")]
)
async def test_a_trailing_slash_is_removed_before_routing(path: str, routed: str) -> None:
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope["path"], scope["raw_path"]))

    original = scope(path)
    await TrailingSlash(app)(original, upload(), discard)
    assert seen == [(routed, routed.encode())]
    assert original["path"] == path


async def request_id(**headers: str) -> str:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    request = scope(**headers)
    await RequestLog(read_all)(request, upload(b""), send)
    found: str = dict(sent[0]["headers"])[b"x-request-id"].decode()
    assert request["state"]["request_id"] == found
    return found


async def test_a_sane_request_id_is_echoed() -> None:
    assert await request_id(x_request_id="req_01:AB-c.d/e+f=") == "req_01:AB-c.d/e+f="


@pytest.mark.parametrize("given", ["", "a b", "a\nb", "x" * 129, "é", '"quoted"'])
async def test_any_other_is_replaced(given: str) -> None:
    found = await request_id(x_request_id=given)
    assert found != given
    assert len(found) == 32


async def test_requests_get_different_ids() -> None:
    assert await request_id() != await request_id()


async def log_line(app: Any, caplog: pytest.LogCaptureFixture, path: str = "/v1/x", *parts: bytes) -> str:
    caplog.set_level(logging.INFO, logger="routes.middleware")
    await RequestLog(app)(scope(path, x_request_id="id-1"), upload(*parts), discard)
    assert len(caplog.records) == 1
    return caplog.records[0].getMessage()


async def test_a_request_leaves_one_line(caplog: pytest.LogCaptureFixture) -> None:
    words = (await log_line(read_all, caplog, "/v1/x", b"")).split()
    assert words[:3] == ["POST", "/v1/x", "200"]
    assert words[-2:] == ["ms", "id-1"]


async def test_an_unfinished_response_shows_in_the_line(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    assert "200 broken off" in await log_line(app, caplog)


async def test_so_does_a_client_that_left(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await receive()

    assert "200 client left" in await log_line(app, caplog)


async def test_a_path_cannot_forge_a_line(caplog: pytest.LogCaptureFixture) -> None:
    request = scope("/x\nPOST /forged")
    request["raw_path"] = b"/x%0APOST%20/forged?text=private"
    caplog.set_level(logging.INFO, logger="routes.middleware")
    await RequestLog(read_all)(request, upload(b""), discard)
    line = caplog.records[0].getMessage()
    assert "\n" not in line
    assert "private" not in line
